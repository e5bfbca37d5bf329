"""The loop of the online stages: collect → estimate → update → log."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from easyrlhf.data.batches import endless_order
from easyrlhf.data.render import Renderer
from easyrlhf.engine.engine import Engine
from easyrlhf.engine.run import Run
from easyrlhf.engine.timer import Timer
from easyrlhf.losses.kl import adapted_kl_coef
from easyrlhf.offline.loop import is_due
from easyrlhf.online.collect import Models, collect
from easyrlhf.online.observe import evaluation_metrics, rollout_metrics, sample_rows
from easyrlhf.online.rollout import Rollout
from easyrlhf.report.console import Console
from easyrlhf.report.log import MetricsLog
from easyrlhf.rewards.sources import RewardError, Rewards
from easyrlhf.rollout.sampler import HFSampler

TRAINING, EVALUATION = 0, 1  # first parts of sampling keys, after the seed
SHOWN_PROMPTS = 8


@dataclass(frozen=True)
class Online:
    """What an online stage plugs into the loop.

    estimate  (rollout, settings, kl_coef) → rollout with advantages and returns
    update    (rollout, step) → metrics of the update
    """

    models: Models
    engines: dict[str, Engine]
    sampler: HFSampler
    rewards: Rewards
    renderer: Renderer
    estimate: Callable[[Rollout, Any, float], Rollout]
    update: Callable[[Rollout, int], dict[str, float]]

    def collect(self, run: Run, rows: list[dict], keys: list[tuple[int, ...]], timer: Timer) -> Rollout:
        """One rollout on these prompt rows."""
        return collect(self.models, self.sampler, self.rewards, rows, keys, run.micro_batch_tokens, timer)


def planned_steps(config, prompts: int) -> int:
    """Rollouts of a run over this many prompts."""
    steps = math.ceil((config.total_episodes or config.epochs * prompts) / config.batch_size)
    return min(steps, config.max_steps or steps)


def fit(
    run: Run,
    online: Online,
    prompts: Dataset,
    valid: Dataset | None,
    log: MetricsLog,
    console: Console,
    kl_coef: float,
) -> dict[str, float]:
    """Train from the run's step to the last one; returns the metrics of the last step.

    kl_coef  the KL coefficient to begin with: the setting, or the one a checkpoint holds
    """
    config, total = run.config, planned_steps(run.config, len(prompts))
    shown = valid if valid is not None else prompts
    shown = shown.select(range(min(SHOWN_PROMPTS, len(shown))))
    if run.step == 0:
        show_samples(run, online, shown, log, console, kl_coef)
    metrics: dict[str, float] = {}
    with console.progress(total, run.step) as progress:
        while run.step < total:
            timer = Timer()
            with timer("step"):
                rows, keys = prompt_batch(prompts, config, run.step)
                rollout = collect_or_save(run, online, rows, keys, timer, kl_coef)
                rollout = online.estimate(rollout, config, kl_coef)
                with timer("update"):
                    updated = online.update(rollout, run.step)
            run.step += 1
            last = run.step == total
            metrics = updated | rollout_metrics(rollout, kl_coef) | pace_metrics(run, rollout, timer)
            if valid is not None and (last or is_due(run.step, config.eval_steps, total)):
                metrics |= evaluate(run, online, valid)
            log.log(run.step, metrics)
            progress.advance(metrics)
            if run.step > config.value_warmup_steps:  # before, the policy has not moved and its KL says nothing
                kl_coef = next_kl_coef(config, kl_coef, metrics["objective/kl"])
            if last or run.step % config.log_steps == 0:
                console.row(run.step, metrics)
            if samples_due(run.step, total, config.num_sample_generations):
                show_samples(run, online, shown, log, console, kl_coef)
            run.stop_if_requested(online.engines, kl_coef=kl_coef)
            if last or is_due(run.step, config.save_steps, total):
                run.save(online.engines, kl_coef=kl_coef)
    return metrics


def prompt_batch(prompts: Dataset, config, step: int) -> tuple[list[dict[str, Any]], list[tuple[int, ...]]]:
    """Prompt rows of a step and their sampling keys; epochs follow one another, each in its own order."""
    episodes = range(step * config.batch_size, (step + 1) * config.batch_size)
    rows = [prompts[row] for row in endless_order(len(prompts), config.seed, episodes)]
    return rows, [(config.seed, TRAINING, episode) for episode in episodes]


def collect_or_save(run: Run, online: Online, rows: list, keys: list, timer: Timer, kl_coef: float) -> Rollout:
    """Collect a rollout; when a reward source fails, save the run as it stands and let the error go on."""
    try:
        return online.collect(run, rows, keys, timer)
    except RewardError:
        run.save(online.engines, kl_coef=kl_coef)
        raise


def evaluate(run: Run, online: Online, valid: Dataset) -> dict[str, float]:
    """Sample an answer to every held-out prompt, always with the same random numbers."""
    timer, rollouts = Timer(), []
    with timer("eval"):
        for start in range(0, len(valid), run.config.batch_size):
            numbers = range(start, min(start + run.config.batch_size, len(valid)))
            keys = [(run.config.seed, EVALUATION, number) for number in numbers]
            rollouts.append(online.collect(run, [valid[number] for number in numbers], keys, timer))
    return evaluation_metrics(rollouts) | {"time/eval": timer.seconds["eval"]}


def next_kl_coef(config, kl_coef: float, kl: float) -> float:
    """The KL coefficient of the next step: adapted when a target is set."""
    return kl_coef if config.kl_target is None else adapted_kl_coef(kl_coef, kl, config.kl_target, config.batch_size)


def pace_metrics(run: Run, rollout: Rollout, timer: Timer) -> dict[str, float]:
    """How far and how fast: episodes, epochs, seconds of each phase, tokens per second of the whole step."""
    tokens = sum(map(len, rollout.prompt_ids)) + rollout.lengths.sum().item()
    return {
        "episode": run.step * run.config.batch_size,
        "tokens_per_second": tokens / timer.seconds["step"],
        **{f"time/{phase}": seconds for phase, seconds in timer.seconds.items()},
    }


def samples_due(step: int, total: int, times: int) -> bool:
    """Whether one of `times` looks at samples, spread over the run, falls on this step; the last step is one."""
    return times > 0 and step * times // total > (step - 1) * times // total


def show_samples(run: Run, online: Online, rows: Dataset, log: MetricsLog, console: Console, kl_coef: float) -> None:
    """Answer the same few prompts with the same random numbers: all go to samples.jsonl, one to the console."""
    if not run.config.num_sample_generations:
        return
    keys = [(run.config.seed, EVALUATION, number) for number in range(len(rows))]
    rollout = online.collect(run, list(rows), keys, Timer())
    samples = sample_rows(rollout, kl_coef, online.renderer.decode)
    log.samples(run.step, samples)
    one = samples[run.step % len(samples)]
    console.sample(one["prompt"], one["completion"], score=one["score"], kl=one["kl"], total=one["total"])

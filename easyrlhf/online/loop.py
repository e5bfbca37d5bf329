"""The loop of the online stages: collect → estimate → update → log."""

import math
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from easyrlhf.config import OnlineConfig
from easyrlhf.data.batches import endless_order
from easyrlhf.data.render import Renderer
from easyrlhf.engine import processes
from easyrlhf.engine.engine import Engine
from easyrlhf.errors import EasyRLHFError, InputError, RunError, RunStopped
from easyrlhf.losses.kl import adapted_kl_coef
from easyrlhf.offline.evaluations import Evaluations, planned_evaluations
from easyrlhf.online.collect import Models, collect
from easyrlhf.online.method import Method
from easyrlhf.online.metrics import evaluation_metrics, importance_metrics, rollout_metrics, sample_rows
from easyrlhf.online.rollout import Rollout, concatenate
from easyrlhf.online.rollout_log import kept_rows
from easyrlhf.report.console import Console
from easyrlhf.report.log import MetricsLog
from easyrlhf.rewards.batch import TrainerState
from easyrlhf.rewards.combined import Rewards
from easyrlhf.rollout.sampler import EVALUATION, TRAINING
from easyrlhf.rollout.sharded import ShardedSampler
from easyrlhf.rollout.vllm_sampler import VLLMSampler
from easyrlhf.run.run import Run
from easyrlhf.run.step_end import Advance, StepEnd, ignore
from easyrlhf.run.timer import Timer

SHOWN_PROMPTS = 8
PHASES = {"rollout": "sampling", "score": "scoring", "update": "update"}  # of a step, as the bar calls them


@dataclass(frozen=True)
class Online:
    """What an online stage plugs into the loop.

    method  how advantages are estimated
    update  (rollout, step) → metrics of the update
    """

    models: Models
    engines: dict[str, Engine]
    sampler: ShardedSampler | VLLMSampler
    rewards: Rewards
    renderer: Renderer
    method: Method
    update: Callable[[Rollout, int], dict[str, float]]

    def collect(self, run: Run, rows: list[dict], keys: list[tuple[int, ...]], timer: Timer) -> Rollout:
        """One rollout on these prompt rows, to learn from."""
        return self.collected(run, rows, keys, timer, run.config.kl_measured == "step")

    def look(self, run: Run, rows: list[dict], keys: list[tuple[int, ...]], timer: Timer) -> Rollout:
        """One rollout on these prompt rows, to look at."""
        return self.collected(run, rows, keys, timer, run.config.kl_measured != "never")

    def collected(self, run: Run, rows: list[dict], keys: list, timer: Timer, with_reference: bool) -> Rollout:
        """As collect, with the reference or without."""
        self.rewards.state.global_step = run.step
        how = rows, keys, run.micro_batch_tokens, timer, with_reference
        return collect(self.models, self.sampler, self.rewards, *how)


@dataclass
class LoopState:
    """What the loop must remember beside weights and optimisers.

    kl_coef     the present price of a nat of distance from the reference
    drawn       completions sampled for training so far
    unfinished  metrics of the run's step where it was not looked at to the end: evaluation or samples failed
    """

    kl_coef: float
    drawn: int = 0
    unfinished: dict[str, float] | None = None


def planned_rollouts(config: OnlineConfig, prompts: int) -> int:
    """Rollouts of a run over this many prompts."""
    steps = math.ceil((config.total_episodes or config.epochs * prompts * config.num_generations) / config.batch_size)
    return min(steps, config.max_steps or steps)


def online_evaluations(config: OnlineConfig, prompts: int, valid: Sized | None) -> Evaluations | None:
    """When a run over this many prompts evaluates on the held-out ones; None without any."""
    if valid is None:
        return None
    steps = planned_rollouts(config, prompts)
    return planned_evaluations(config, steps, steps * config.batch_size, len(valid))


def train(
    run: Run,
    online: Online,
    prompts: Dataset,
    valid: Dataset | None,
    log: MetricsLog,
    console: Console,
    at: LoopState,
) -> dict[str, float]:
    """Train from the run's step to the last one; returns the metrics of the step whose weights the models then have.

    at  where to begin; it moves along
    """
    config, total = run.config, planned_rollouts(run.config, len(prompts))
    shown = valid if valid is not None else prompts
    shown = shown.select(range(min(SHOWN_PROMPTS, len(shown))))
    if at.unfinished is not None:
        log.take_back(run.step)
    describe_training(online.rewards.state, config, total, len(prompts))
    evaluations = online_evaluations(config, len(prompts), valid)
    course = StepEnd(run, online.engines, total, log, console, evaluations)
    looked_at = evaluations and evaluations.chosen(valid)

    def finish_step(metrics: dict[str, float]) -> None:
        with nothing_lost(lambda: log_and_save(course, metrics, at)):
            if course.evaluates:
                metrics |= course.evaluated(lambda advance: evaluate_prompts(run, online, looked_at, advance))
            if samples_due(run.step, total, config.num_sample_generations):
                course.progress.tell("samples")
                show_samples(run, online, shown, log, console, at.kl_coef)
        course.end_step(metrics, **asdict(at))

    with course.shown():
        if run.step == 0:
            begin(course, online, looked_at, shown, at)
        if at.unfinished is not None:
            metrics, at.unfinished = at.unfinished, None
            finish_step(metrics)
        while run.step < total:
            timer, before = Timer(lambda phase: course.progress.tell(PHASES.get(phase, ""))), asdict(at)
            with timer("step"):
                with nothing_lost(lambda before=before: run.save(online.engines, **before)):
                    rollout, sampled = collect_batch(run, online, prompts, timer, at)
                    if config.rollout_ahead and run.step + 1 < total:
                        begin_next(online, prompts, config, at)
                    rollout = online.method.estimate(rollout, config, at.kl_coef)
                with timer("update"), run.unchanged_is_kept(online.engines, **before):
                    updated = online.update(rollout, run.step)
                online.sampler.updated()
            run.step += 1
            metrics = updated | sampled | pace_metrics(rollout, timer, at)
            metrics |= rollout_metrics(rollout, at.kl_coef) | importance_metrics(rollout, config)
            metrics |= logged_metrics(online.rewards)
            log.rollouts(run.step, rows_to_keep(rollout, online, config, at.kl_coef))
            at.kl_coef = next_kl_coef(config, at.kl_coef, run.step, metrics.get("objective/kl"))
            finish_step(metrics)
    run.take_best(online.engines)
    return course.metrics()


def describe_training(state: TrainerState, config: OnlineConfig, total: int, prompts: int) -> None:
    """What reward functions may know of the whole run."""
    state.max_steps, state.train_batch_size = total, config.batch_size
    state.num_train_epochs = total * config.batch_size / (prompts * config.num_generations)
    state.is_local_process_zero = state.is_world_process_zero = processes.is_main()


def logged_metrics(rewards: Rewards) -> dict[str, float]:
    """What reward functions have logged, under the names of report.metrics."""
    return {f"reward/{name}": value for name, value in rewards.take_logged().items()}


def rows_to_keep(rollout: Rollout, online: Online, config: OnlineConfig, kl_coef: float) -> list[dict[str, Any]]:
    """The rows of rollouts.jsonl for a step."""
    return kept_rows(rollout, kl_coef, config.log_rollouts, online.renderer.decode, config.log_rollout_ids)


def begin(course: StepEnd, online: Online, valid: Dataset | None, shown: Dataset, at: LoopState) -> None:
    """Look at the policy before its first step: what it says, and with eval_at_start what that scores."""
    run = course.run
    with nothing_lost(lambda: None):
        wanted = valid is not None and run.config.eval_at_start
        metrics = course.evaluated(lambda advance: evaluate_prompts(run, online, valid, advance)) if wanted else {}
        course.progress.tell("samples")
        show_samples(run, online, shown, course.log, course.console, at.kl_coef)
    if metrics:
        course.begin(metrics, **asdict(at))


def begin_next(online: Online, prompts: Dataset, config: OnlineConfig, at: LoopState) -> None:
    """Let the sampler begin the next step's rollout, with the policy as it is before this step's update."""
    rows, keys = prompt_batch(prompts, config, at.drawn)
    online.sampler.begin([row["prompt_ids"] for row in rows], keys)


@contextmanager
def nothing_lost(keep: Callable[[], Any]) -> Iterator[None]:
    """Whatever fails in here, first keep what is done, then let the error go on; bad input is a failure by now.

    Sampling, scoring and evaluating change no weight. Among several processes only an error that all of them have is
    followed by a save, in which all take part.
    """
    try:
        yield
    except RunStopped:  # at once, by a second signal
        raise
    except Exception as error:
        if processes.size() == 1 or isinstance(error, EasyRLHFError):
            try:
                keep()
            except Exception as second:
                if not isinstance(error, EasyRLHFError):  # such as a full memory, which has advice of its own
                    raise error from second
                raise RunError(f"{error}\nAnd the run could not be saved: {second}") from error
        if isinstance(error, InputError):
            raise RunError(str(error)) from error
        raise


def log_and_save(course: StepEnd, metrics: dict[str, float], at: LoopState) -> None:
    """Log the present step and save it as one that is still to be looked at."""
    try:
        course.log.log(course.run.step, metrics)
    finally:
        course.run.save(course.engines, **asdict(at) | {"unfinished": metrics})


def collect_batch(
    run: Run, online: Online, prompts: Dataset, timer: Timer, at: LoopState
) -> tuple[Rollout, dict[str, float]]:
    """A step's rollout and what sampling it again says.

    As long as some groups get no advantage, and the settings allow, another rollout is sampled on the next prompts, and
    its groups that get one take their places (Yu et al. 2025, eq. 11).
    """
    config, size = run.config, run.config.num_generations

    def teaches(drawn: Rollout) -> Tensor:
        return online.method.groups_that_teach(drawn, config, at.kl_coef)

    def draw() -> Rollout:
        rows, keys = prompt_batch(prompts, config, at.drawn)
        at.drawn += config.batch_size
        return online.collect(run, rows, keys, timer)

    rollout = draw()
    for _ in range(config.resamples):
        kept = teaches(rollout)
        if kept.all():
            break
        both = concatenate(rollout, draw())
        wanted = torch.cat([kept, teaches(both)[len(kept) :]])
        groups = torch.arange(len(both)).view(-1, size)
        order = (~wanted).int().argsort(stable=True)
        rollout = both.take(groups[order.cpu()].flatten()[: config.batch_size].tolist())
    if not online.method.in_groups:
        return rollout, {}
    return rollout, {"health/equal_groups": 1 - teaches(rollout).float().mean().item()}


def prompt_batch(
    prompts: Dataset, config: OnlineConfig, drawn: int
) -> tuple[list[dict[str, Any]], list[tuple[int, ...]]]:
    """Prompt rows of the next rollout, once per completion, and their sampling keys.

    Epochs follow one another, each in its own order, or all in that of the files.

    drawn  completions before it
    """
    size = config.num_generations
    numbers = range(drawn // size, (drawn + config.batch_size) // size)
    shuffled = endless_order(len(prompts), config.seed, numbers)
    order = shuffled if config.shuffle_prompts else [number % len(prompts) for number in numbers]
    rows = [prompts[row] for row in order for _ in range(size)]
    return rows, [(config.seed, TRAINING, number) for number in range(drawn, drawn + config.batch_size)]


def evaluate_prompts(run: Run, online: Online, valid: Dataset, advance: Advance = ignore) -> dict[str, float]:
    """Sample an answer to every held-out prompt, always with the same random numbers."""
    timer, rollouts = Timer(), []
    with timer("eval"):
        for start in range(0, len(valid), run.config.batch_size):
            numbers = range(start, min(start + run.config.batch_size, len(valid)))
            keys = [(run.config.seed, EVALUATION, number) for number in numbers]
            rollouts.append(online.look(run, [valid[number] for number in numbers], keys, timer))
            advance(len(numbers))
    logged = {f"eval/{name}": value for name, value in logged_metrics(online.rewards).items()}
    return evaluation_metrics(rollouts) | logged | {"time/eval": timer.seconds["eval"]}


def next_kl_coef(config: OnlineConfig, kl_coef: float, step: int, kl: float | None) -> float:
    """The KL coefficient after a step: adapted when a target is set and the policy has begun to move."""
    if config.kl_target is None or step <= config.value_warmup_steps:
        return kl_coef
    return adapted_kl_coef(kl_coef, kl, config.kl_target, config.batch_size)


def pace_metrics(rollout: Rollout, timer: Timer, at: LoopState) -> dict[str, float]:
    """How far and how fast: episodes, epochs, seconds of each phase, tokens per second of the whole step."""
    tokens = sum(map(len, rollout.prompt_ids)) + rollout.lengths.sum().item()
    return {
        "episode": at.drawn,
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
    rollout = online.look(run, list(rows), keys, Timer())
    online.rewards.take_logged()  # of a few prompts, which say nothing of the step
    samples = sample_rows(rollout, kl_coef, online.renderer.decode)
    log.samples(run.step, samples)
    one = samples[run.step % len(samples)]
    numbers = {name: one[name] for name in ("score", "kl", "total") if one[name] is not None}
    console.sample(one["prompt"], one["completion"], **numbers)

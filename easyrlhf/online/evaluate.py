from dataclasses import replace

from datasets import Dataset

from easyrlhf.online.collect import check_dropped, collect
from easyrlhf.online.metrics import evaluation_metrics, sample_rows
from easyrlhf.online.rollout import Rollout
from easyrlhf.online.state import Online
from easyrlhf.report.console import Console
from easyrlhf.report.log import MetricsLog
from easyrlhf.rewards.combined import Rewards
from easyrlhf.rollout.sampler import EVALUATION
from easyrlhf.run.run import Run
from easyrlhf.run.step_end import Advance, ignore
from easyrlhf.run.timer import Timer

SHOWN_PROMPTS = 8


def logged_metrics(rewards: Rewards) -> dict[str, float]:
    """What reward functions have logged, under the names of report.metrics."""
    return {f"reward/{name}": value for name, value in rewards.take_logged().items()}


def evaluate_prompts(run: Run, online: Online, valid: Dataset, advance: Advance = ignore) -> dict[str, float]:
    """Sample an answer to every held-out prompt, always with the same random numbers."""
    timer, rollouts = Timer(), []
    with timer("eval"):
        for start in range(0, len(valid), run.config.batch_size):
            numbers = range(start, min(start + run.config.batch_size, len(valid)))
            keys = [(run.config.seed, EVALUATION, number) for number in numbers]
            rollouts.append(look(run, online, [valid[number] for number in numbers], keys, timer))
            advance(len(numbers))
    check_dropped([row["episode"] for rollout in rollouts for row in rollout.rows if "episode" in row])
    logged = {f"eval/{name}": value for name, value in logged_metrics(online.rewards).items()}
    return evaluation_metrics(rollouts) | logged | {"time/eval": timer.seconds["eval"]}


def look(run: Run, online: Online, rows: list[dict], keys: list[tuple[int, ...]], timer: Timer) -> Rollout:
    """One rollout on these prompt rows, to look at; the reference is asked unless it never is.

    They may be few, and nothing is learned from them: as long as any episode can be played, there is something to see.
    """
    if online.player is not None:
        online = replace(online, most_dropped=1.0)
    return collect(run, online, rows, keys, timer, with_reference=run.config.kl_measured != "never")


def samples_due(step: int, total: int, times: int) -> bool:
    """Whether one of `times` looks at samples, spread over the run, falls on this step; the last step is one."""
    return times > 0 and step * times // total > (step - 1) * times // total


def show_samples(run: Run, online: Online, rows: Dataset, log: MetricsLog, console: Console, kl_coef: float) -> None:
    """Answer the same few prompts with the same random numbers: all go to samples.jsonl, one to the console."""
    if not run.config.num_sample_generations:
        return
    keys = [(run.config.seed, EVALUATION, number) for number in range(len(rows))]
    rollout = look(run, online, list(rows), keys, Timer())
    online.rewards.take_logged()  # of a few prompts, which say nothing of the step
    samples = sample_rows(rollout, kl_coef, online.renderer.decode)
    log.samples(run.step, samples)
    one = samples[run.step % len(samples)]
    numbers = {name: one[name] for name in ("score", "kl", "total") if one[name] is not None}
    console.sample(one["prompt"], one["completion"], **numbers)

"""The loop of the online stages: collect → estimate → update → log."""

import math
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset

from easyrlhf.config import OnlineConfig
from easyrlhf.engine import processes
from easyrlhf.engine.engine import Engine
from easyrlhf.errors import EasyRLHFError, InputError, RunError, RunStopped, ServiceStopped
from easyrlhf.losses.kl import adapted_kl_coef
from easyrlhf.offline.evaluations import Evaluations, planned_evaluations
from easyrlhf.online.batch import collect_batch
from easyrlhf.online.evaluate import SHOWN_PROMPTS, evaluate_prompts, logged_metrics, samples_due, show_samples
from easyrlhf.online.metrics import importance_metrics, rollout_metrics, staleness_metrics
from easyrlhf.online.replay import KEPT, ReplayBuffer, with_replayed
from easyrlhf.online.rollout import Rollout
from easyrlhf.online.rollout_log import kept_rows
from easyrlhf.online.state import LoopState, Online
from easyrlhf.report.console import Console
from easyrlhf.report.log import MetricsLog
from easyrlhf.rewards.batch import TrainerState
from easyrlhf.run.run import Run
from easyrlhf.run.step_end import StepEnd
from easyrlhf.run.timer import Timer

BEGUN = "begun"  # draws in a checkpoint
PHASES = {"rollout": "sampling", "score": "scoring", "update": "update"}  # of a step, as the bar calls them


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
    # Without held-out prompts some of training's are shown: what the policy says is worth seeing either way.
    shown = valid if valid is not None else prompts
    # The row of an unfinished step stands in the log already; it is written again once the step was looked at.
    if at.unfinished is not None:
        log.take_back(run.step)
    describe_training(online.rewards.state, config, total, len(prompts))
    keep_draws(run, online)
    evaluations = online_evaluations(config, len(prompts), valid)
    course = StepEnd(run, online.engines, total, log, console, evaluations)
    loop = Loop(
        online,
        prompts,
        evaluations and evaluations.chosen(valid),
        shown.select(range(min(SHOWN_PROMPTS, len(shown)))),
        at,
        course,
        buffer_of(run),
    )
    with course.shown():
        if run.step == 0:
            loop.begin()
        if at.unfinished is not None:  # the last sitting failed behind an update, whose weights are kept
            metrics, at.unfinished = at.unfinished, None
            loop.finish_step(metrics)
        while run.step < total:
            loop.finish_step(loop.step())
    run.take_best(online.engines)
    return course.metrics()


def keep_draws(run: Run, online: Online) -> None:
    """Let checkpoints hold the draws that have begun, and take back those that this run's has held."""
    held = run.kept.pop(BEGUN, {})
    if run.config.rollout_ahead:
        # Another run's may be of other prompts or lengths: one that branches from it begins its own.
        online.sampler.restore({} if run.origin else held)
        run.asked_to_keep[BEGUN] = online.sampler.kept


def buffer_of(run: Run) -> ReplayBuffer | None:
    """The groups that a run has kept so far, which its checkpoints hold; None where its settings keep none."""
    config = run.config
    if not config.replay_buffer_size:
        return None
    buffer = ReplayBuffer(config.replay_buffer_size, config.replay_max_age)
    buffer.restore(run.kept.pop(KEPT, {}))
    run.asked_to_keep[KEPT] = buffer.tensors
    return buffer


@dataclass(frozen=True)
class Loop:
    """What the steps of a run share.

    valid  held-out prompts that are evaluated on; None without any
    shown  prompts whose answers are shown now and then
    buffer groups to learn from once more; None where nothing is kept
    """

    online: Online
    prompts: Dataset
    valid: Dataset | None
    shown: Dataset
    at: LoopState
    course: StepEnd
    buffer: ReplayBuffer | None = None

    def step(self) -> dict[str, float]:
        """One step of learning; returns its metrics."""
        online, at, run = self.online, self.at, self.course.run
        timer, before = Timer(lambda phase: self.course.progress.tell(PHASES.get(phase, ""))), asdict(at)
        with timer("step"):
            # Until the update no weight moves, so that whatever fails can leave a checkpoint of the step before.
            with nothing_lost(lambda: run.save(online.engines, **before)), halted(run, online.engines, lambda: before):
                # 1. Collect: the policy answers a batch of prompts, and every model and reward says what it thinks.
                rollout, sampled = collect_batch(run, online, self.prompts, timer, at)
                # 2. Estimate: scores become the advantage of every token. All that differs between methods is here and
                # in the loss of 3.
                learned = drawn = online.method.estimate(rollout, run.config, at.kl_coef)
                if self.buffer is not None:
                    mixed = with_replayed(run, online, self.prompts, rollout, self.buffer, at.kl_coef)
                    learned = online.method.estimate(mixed, run.config, at.kl_coef)
            # 3. Update: epochs of minibatches over this one rollout.
            # One that fails half way keeps the weights of before, or says that there are none to keep.
            with timer("update"), run.unchanged_is_kept(online.engines, **before):
                updated = online.update(learned, run.step)
            online.sampler.updated()  # what samples elsewhere learns that its weights are old
        sampled |= staleness_metrics(learned, run.config)
        if self.buffer is not None:
            sampled |= {"replay/used": learned.share_replayed}
            self.buffer.add(drawn, run.config.num_generations, run.step)
        run.step += 1
        # 4. Log, with the price of a nat that the step was taken with; the next one may have another.
        metrics = updated | sampled | step_metrics(drawn, online, timer, run, at)
        self.course.log.rollouts(run.step, rows_to_keep(drawn, online, run.config, at.kl_coef))
        at.kl_coef = next_kl_coef(run.config, at.kl_coef, run.step, metrics.get("objective/kl"))
        return metrics

    def finish_step(self, metrics: dict[str, float]) -> None:
        """Look at the policy where that is due, then log, save and stop as the settings say."""
        course, run = self.course, self.course.run
        # The step is done by now: whatever fails in looking at it must not lose it, so it is logged and saved as it is.
        with (
            nothing_lost(lambda: log_and_save(course, metrics, self.at)),
            halted(run, course.engines, lambda: logged_unfinished(course, metrics, self.at)),
        ):
            if course.evaluates:
                metrics |= self.evaluate()
            if samples_due(run.step, course.total, run.config.num_sample_generations):
                self.show()
        course.end_step(metrics, **asdict(self.at))

    def begin(self) -> None:
        """Look at the policy before its first step: what it says, and with eval_at_start what that scores."""
        course, run = self.course, self.course.run
        with nothing_lost(lambda: None):  # nothing is done yet
            wanted = self.valid is not None and run.config.eval_at_start
            metrics = self.evaluate() if wanted else {}
            self.show()
        if metrics:
            course.begin(metrics, **asdict(self.at))

    def evaluate(self) -> dict[str, float]:
        """The metrics of answers to the held-out prompts."""
        run = self.course.run
        return self.course.evaluated(lambda advance: evaluate_prompts(run, self.online, self.valid, advance))

    def show(self) -> None:
        """A few samples, to the console and into samples.jsonl."""
        course = self.course
        course.progress.tell("samples")
        show_samples(course.run, self.online, self.shown, course.log, course.console, self.at.kl_coef)


def describe_training(state: TrainerState, config: OnlineConfig, total: int, prompts: int) -> None:
    """What reward functions may know of the whole run."""
    state.max_steps, state.train_batch_size = total, config.batch_size
    state.num_train_epochs = total * config.batch_size / (prompts * config.num_generations)
    state.is_local_process_zero = state.is_world_process_zero = processes.is_main()


def rows_to_keep(rollout: Rollout, online: Online, config: OnlineConfig, kl_coef: float) -> list[dict[str, Any]]:
    """The rows of rollouts.jsonl for a step."""
    return kept_rows(rollout, kl_coef, config.log_rollouts, online.renderer.decode, config.log_rollout_ids)


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


@contextmanager
def halted(run: Run, engines: dict[str, Engine], state: Callable[[], dict[str, Any]]) -> Iterator[None]:
    """What is stopped on request while it waits in here stops the run, as after a step.

    state  → what the loop has to remember
    """
    try:
        yield
    except ServiceStopped:
        run.stop_if_requested(engines, **state())
        raise


def log_and_save(course: StepEnd, metrics: dict[str, float], at: LoopState) -> None:
    """Log the present step and save it as one that is still to be looked at."""
    try:
        course.log.log(course.run.step, metrics)
    finally:
        course.run.save(course.engines, **as_unfinished(metrics, at))


def logged_unfinished(course: StepEnd, metrics: dict[str, float], at: LoopState) -> dict[str, Any]:
    """Log the present step; gives what the loop remembers of it."""
    course.log.log(course.run.step, metrics)
    return as_unfinished(metrics, at)


def as_unfinished(metrics: dict[str, float], at: LoopState) -> dict[str, Any]:
    """What the loop remembers of a step that is still to be looked at."""
    return asdict(at) | {"unfinished": metrics}


def next_kl_coef(config: OnlineConfig, kl_coef: float, step: int, kl: float | None) -> float:
    """The KL coefficient after a step: adapted when a target is set and the policy has begun to move."""
    if config.kl_target is None or step <= config.value_warmup_steps:
        return kl_coef
    return adapted_kl_coef(kl_coef, kl, config.kl_target, config.batch_size)


def step_metrics(rollout: Rollout, online: Online, timer: Timer, run: Run, at: LoopState) -> dict[str, float]:
    """All that a step's rollout says: how far and how fast, scores and KL, sampling, what reward functions logged."""
    metrics = {
        **pace_metrics(rollout, timer, at),
        **rollout_metrics(rollout, at.kl_coef),
        **importance_metrics(rollout, run.config),
        **online.method.metrics(rollout),
        **logged_metrics(online.rewards),
    }
    if not run.config.answers_end:
        del metrics["health/eos_rate"]
    return metrics


def pace_metrics(rollout: Rollout, timer: Timer, at: LoopState) -> dict[str, float]:
    """How far and how fast: episodes, epochs, seconds of each phase, tokens per second of the whole step."""
    tokens = sum(map(len, rollout.prompt_ids)) + rollout.lengths.sum().item()
    return {
        "episode": at.drawn,
        "tokens_per_second": tokens / timer.seconds["step"],
        **{f"time/{phase}": seconds for phase, seconds in timer.seconds.items()},
    }

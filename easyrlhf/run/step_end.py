"""The end of a step, the same in both loops: log it, judge it, show it, and save or stop where the settings say."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from easyrlhf.engine import processes
from easyrlhf.engine.engine import Engine
from easyrlhf.offline.evaluations import Evaluations, every_so_many, times_after
from easyrlhf.report.console import Console
from easyrlhf.report.diagnostics import Watch
from easyrlhf.report.log import MetricsLog
from easyrlhf.report.metrics import is_better
from easyrlhf.report.verdict import alarms
from easyrlhf.run.run import Run

Advance = Callable[[int], None]  # told how many more rows of an evaluation are done


def ignore(done: int) -> None:
    """For evaluations that nobody watches."""


class StepEnd:
    """A run on its way through its steps.

    evaluations  when and on how many rows it evaluates; None without held-out rows
    """

    def __init__(
        self,
        run: Run,
        engines: dict[str, Engine],
        total: int,
        log: MetricsLog,
        console: Console,
        evaluations: Evaluations | None = None,
    ):
        self.run, self.engines, self.total, self.evaluations = run, engines, total, evaluations
        self.log, self.console = log, console
        self.watch = Watch(run.config.stage, log.rows())

    @contextmanager
    def shown(self) -> Iterator[None]:
        """A progress bar while the run goes on."""
        guess = {"eval": self.evaluations.in_steps} if self.evaluations else {}
        with self.console.progress(self.total, self.run.step, ahead=self.ahead, guess=guess) as self.progress:
            yield
        self.run.stop.finishing = True

    def ahead(self) -> dict[str, int]:
        """How many steps, evaluations and checkpoints are still to come."""
        run, evaluated = self.run, self.evaluations
        return {
            "step": self.total - run.step,
            "eval": times_after(run.step, evaluated.every, self.total) if evaluated else 0,
            "save": times_after(run.saved, every_so_many(run.config.save_steps, self.total), self.total),
        }

    @property
    def evaluates(self) -> bool:
        """Whether an evaluation is due at the present step."""
        return self.evaluations is not None and self.is_due(self.evaluations.every)

    def evaluated(self, evaluate: Callable[[Advance], dict[str, float]]) -> dict[str, float]:
        """The metrics of an evaluation, which is shown as such."""
        with self.progress.phase("evaluating", "eval", self.evaluations.rows) as advance:
            return evaluate(advance)

    @property
    def last(self) -> bool:
        """Whether the present step is the last one."""
        return self.run.step == self.total

    def is_due(self, every: int | None) -> bool:
        """Whether something that the settings want `every` so many steps, and at the end, is due now."""
        return self.last or is_due(self.run.step, every, self.total)

    def begin(self, metrics: dict[str, float], **state) -> None:
        """Take in an evaluation before the first step; `state` goes into the checkpoint it gets if that is kept."""
        note_best(self.run, metrics)
        self.log.log(0, metrics)
        if processes.is_main():
            self.watch.add({"step": 0} | metrics)
        self.console.row(0, metrics)
        if self.run.is_best:
            self.save(**state)

    def save(self, **state) -> None:
        """Write a checkpoint of the present step, with this state."""
        with self.progress.phase("saving", "save"):
            self.run.save(self.engines, **state)

    def end_step(self, metrics: dict[str, float], **state) -> None:
        """What follows a step once all its numbers are known; `state` goes into its checkpoint.

        Raises RunStopped when the run is asked to stop, or an alarm stops it.
        """
        run, config = self.run, self.run.config
        note_best(run, metrics)
        self.log.log(run.step, metrics)
        found = self.watch.add({"step": run.step} | metrics) if processes.is_main() else []
        self.progress.advance(metrics)
        evaluated = any(name.startswith("eval/") for name in metrics)
        if self.last or evaluated or run.step % config.log_steps == 0:
            self.console.row(run.step, metrics)
        self.console.verdicts(found, run.step)
        run.stop_on_alarm(alarms(found), self.engines, **state)
        run.stop_if_requested(self.engines, **state)
        if run.is_best or self.is_due(config.save_steps):
            self.save(**state)

    def metrics(self) -> dict[str, float]:
        """What was logged at the step whose weights the run ends with."""
        step = self.run.best["step"] if self.run.best else self.run.step
        rows = (row for row in self.log.rows() if row["step"] == step)
        return {name: value for row in rows for name, value in row.items() if name != "step"}


def note_best(run: Run, metrics: dict[str, float]) -> None:
    """Remember this step as the best when it was evaluated and is better than all before, by --keep_best."""
    name = run.config.keep_best
    if name not in metrics or not math.isfinite(metrics[name]):
        return
    if run.best is None or is_better(name, metrics[name], run.best["value"]):
        run.best = {"metric": name, "step": run.step, "value": metrics[name]}


def is_due(step: int, every: int | None, total: int) -> bool:
    """Whether something done `every` so many steps (None: every tenth of the run; 0: never) is due at this step."""
    every = every_so_many(every, total)
    return every > 0 and step % every == 0

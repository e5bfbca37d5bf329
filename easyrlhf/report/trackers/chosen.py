"""The trackers that --report_to names, one or several, kept away from the run: one that fails is given up."""

import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from easyrlhf.config.lists import split_list
from easyrlhf.config.reporting import EVERY_TRACKER, TRACKERS
from easyrlhf.errors import InputError
from easyrlhf.report.trackers.mlflow import MLflow
from easyrlhf.report.trackers.tensorboard import TensorBoard
from easyrlhf.report.trackers.tracker import TrackedRun, Tracker
from easyrlhf.report.trackers.trackio import Trackio
from easyrlhf.report.trackers.wandb import Wandb

CLASSES: dict[str, type[Tracker]] = dict(zip(TRACKERS, (TensorBoard, Wandb, MLflow, Trackio), strict=True))


def tracker_names(report_to: str) -> tuple[str, ...]:
    """The trackers that the setting means: those it names, none, or with `all` every one that is installed."""
    if report_to == EVERY_TRACKER:
        return tuple(name for name in TRACKERS if is_installed(name))
    return tuple(name for name in split_list(report_to) if name in CLASSES)


def is_installed(name: str) -> bool:
    """Whether a tracker's library is there."""
    for package in CLASSES[name].packages:
        # not find_spec: a folder ./wandb left by another run would pass for the package
        with suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(package)
            return True
    return False


def require_installed(report_to: str) -> None:
    """Raise InputError when a tracker that --report_to names is not installed; light."""
    for name in tracker_names(report_to):
        if not is_installed(name):
            raise InputError(
                f"--report_to {report_to}: the {name} package is not installed; pip install "
                f"{CLASSES[name].packages[0]}, or leave {name} out"
            )


def check_trackers(report_to: str) -> None:
    """Raise InputError when a tracker that --report_to names is not installed, or says that it cannot be used."""
    require_installed(report_to)
    for name in tracker_names(report_to):
        try:
            CLASSES[name].check()
        except Exception as error:  # whatever that library raises
            raise InputError(
                f"--report_to {report_to}: {name} cannot be used now ({_reason(error)}); put that right, or leave "
                f"{name} out: the setting may be another one when the run is continued"
            ) from error


class Trackers:
    """What is told to every tracker. None of them can end the run: one that raises is given up, which is said once.

    warn  takes that line
    note  takes a line on where a tracker shows the run
    """

    def __init__(
        self, report_to: str, run: TrackedRun, warn: Callable[[str], None] = print, note: Callable[[str], None] = print
    ):
        self._warn = warn
        self._open: dict[str, Tracker] = {}
        for name in tracker_names(report_to):
            with self._spared(name):
                self._open[name] = CLASSES[name](run)
                if self._open[name].where:
                    note(self._open[name].where)

    def scalars(self, step: int, row: dict[str, float]) -> None:
        """Give the numbers of a step to each."""
        self._each(lambda tracker: tracker.scalars(step, row))

    def samples(self, step: int, rows: list[dict]) -> None:
        """Give what a model wrote to each."""
        self._each(lambda tracker: tracker.samples(step, rows))

    def close(self, complete: bool) -> None:
        """Close each; a run that is not complete may go on later."""
        self._each(lambda tracker: tracker.close(complete))

    def _each(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            with self._spared(name):
                what(tracker)

    @contextmanager
    def _spared(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever that library raises: no curve is worth a run
            self._open.pop(name, None)
            self._warn(f"{name} gets nothing more of this run ({_reason(error)}); metrics.jsonl has every number")


def _reason(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]

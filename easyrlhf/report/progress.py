"""The bar of something that takes long: how far it is, what it is doing, and how long the rest will take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from easyrlhf.report.metrics import show
from easyrlhf.report.pace import Pace

if TYPE_CHECKING:
    from easyrlhf.report.console import Console

QUIET_SECONDS = 30.0
NARROW = 60  # columns; below that the bar has no room for itself


class ProgressBar:
    """A bar from `done` to `total`; without a terminal, a line whenever nothing was printed for 30 seconds.

    shown  (title, metric) of the number beside the bar
    pace   what tells how long the rest takes; by default its units alone
    spoke  when something was last printed
    """

    def __init__(
        self,
        console: "Console",
        total: int,
        done: int,
        unit: str,
        shown: tuple[str, str] = ("", ""),
        pace: Pace | None = None,
    ):
        self.total, self.done = total, done
        self.spoke = self._began = time.monotonic()
        self._console, self._unit, self._shown = console, unit, shown
        self._pace = pace or Pace(lambda: {"step": self.total - self.done})
        self._phase = self._headline = ""
        self._kind = "step"  # of what is under way
        self._bar = _rich_bar(console.rich, self) if console.rich else None

    def __enter__(self) -> "ProgressBar":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, metrics: dict[str, float] | None = None) -> None:
        """One unit is done; the stage's headline metric is shown when `metrics` has it."""
        self.done += 1
        title, name = self._shown
        now = time.monotonic()
        self._pace.saw("step", now - self._began)
        self._began = now
        if metrics and name in metrics:
            self._headline = f"{title} {show(name, metrics[name])}"
        self.tell("")

    def tell(self, phase: str) -> None:
        """Say what is being done: `sampling`, or "" for the work that the bar counts."""
        another = phase.split(" ")[0] != self._phase.split(" ")[0]
        self._phase = phase
        self._refresh(at_once=another)

    @contextmanager
    def phase(self, name: str, kind: str, total: int = 0) -> Iterator[Callable[[int], None]]:
        """Work beside the units: an evaluation, a checkpoint. Its time is counted as its own.

        total  of what it counts; yields a function that is told how many more of them are done
        """
        done, began = 0, time.monotonic()

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.tell(f"{name} {done:,}/{total:,}")

        self.tell(f"{name} 0/{total:,}" if total else name)
        self._kind = kind
        yield advance
        self._kind = "step"
        seconds = time.monotonic() - began
        self._began += seconds  # so that the unit it stands in does not count it
        self._pace.saw(kind, seconds)
        self.tell("")

    def left(self) -> str:
        """Time to the end, as Pace has it."""
        return self._pace.left(self._kind)

    def speed(self) -> str:
        """The mean pace of its units."""
        return self._pace.speed(self._unit)

    def _refresh(self, at_once: bool) -> None:
        if self._bar:
            self._bar.update(
                self._bar.task_ids[0],
                description=self._phase or self._unit,
                completed=self.done,
                speed=self.speed(),
                headline=self._headline,
                refresh=at_once,  # else it is drawn ten times a second
            )
        elif time.monotonic() - self.spoke >= QUIET_SECONDS:
            share = f"{self.done / self.total:.0%}" if self.total else ""
            left = f"{self.left()} left" if self.left() else ""
            parts = f"{self._unit} {self.done}/{self.total}", share, self._phase, self._headline, self.speed(), left
            self._console.note(" · ".join(part for part in parts if part))
            self.spoke = time.monotonic()


def _rich_bar(console, progress: ProgressBar):
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Left(ProgressColumn):
        """What the table says too, counting down."""

        def render(self, task) -> Text:
            return Text(progress.left(), style="progress.remaining")

    narrow = console.width < NARROW
    columns = [TextColumn("{task.description}")]
    columns += [] if narrow else [BarColumn(bar_width=max(8, min(40, console.width - 72)))]
    columns += [MofNCompleteColumn(), TextColumn("{task.fields[headline]}", style="bold")]
    columns += [] if narrow else [TextColumn("{task.fields[speed]}")]
    bar = RichProgress(*columns, Left(), console=console, transient=True)
    bar.add_task(progress._unit, total=progress.total, completed=progress.done, headline="", speed="")
    return bar

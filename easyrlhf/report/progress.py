"""The bar of something that takes long: how far it is, what it is doing, and how long the rest will take."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from easyrlhf.report.metrics import show
from easyrlhf.report.pace import clock, seconds_each, seconds_left

if TYPE_CHECKING:
    from easyrlhf.report.console import Console

QUIET_SECONDS = 30.0
NARROW = 60  # columns; below that the bar has no room for itself


class ProgressBar:
    """A bar from `done` to `total`; without a terminal, a line whenever nothing was printed for 30 seconds.

    shown  (title, metric) of the number beside the bar
    ahead  → kind (step, eval, save) → how many are still to come; by default units alone
    guess  kind → what one takes, in units, before any was seen
    spoke  when something was last printed
    """

    def __init__(
        self,
        console: "Console",
        total: int,
        done: int,
        unit: str,
        shown: tuple[str, str] = ("", ""),
        ahead: Callable[[], Mapping[str, int]] | None = None,
        guess: Mapping[str, float] | None = None,
    ):
        self.total, self.done = total, done
        self.spoke = self._began = time.monotonic()
        self._console, self._unit, self._shown = console, unit, shown
        self._ahead, self._guess = ahead or (lambda: {"step": self.total - self.done}), guess or {}
        self._seen: dict[str, tuple[int, float]] = {}
        self._estimate: tuple[float, float] | None = None  # seconds left, and when that was said
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
        self._saw("step", now - self._began)
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
        self._saw(kind, seconds)
        self.tell("")

    def left(self) -> str:
        """Time to the end, as m:ss or h:mm:ss; "" before the first unit.

        It runs down while something is under way, by no more than that was expected to take.
        """
        if self._estimate is None:
            return ""
        seconds, said = self._estimate
        under_way = seconds_each(self._kind, self._seen, self._guess)
        return clock(max(0.0, seconds - min(time.monotonic() - said, under_way)))

    def speed(self) -> str:
        """The mean pace of the units."""
        count, seconds = self._seen.get("step", (0, 0.0))
        if not count:
            return ""
        pace = count / max(seconds, 1e-9)
        return f"{pace:.2f} {self._unit}/s" if pace >= 0.1 else f"{1 / pace:.1f} s/{self._unit}"

    def _saw(self, kind: str, seconds: float) -> None:
        count, spent = self._seen.get(kind, (0, 0.0))
        self._seen[kind] = count + 1, spent + seconds
        left = seconds_left(self._ahead(), self._seen, self._guess)
        self._estimate = None if left is None else (left, time.monotonic())

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

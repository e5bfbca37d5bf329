"""The terminal of a run: rich when standard output is a terminal, plain lines otherwise."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from easyrlhf.data.watching import watched_by
from easyrlhf.report.layout import COUNTER, GAP, LEFT, cell, columns_of, command_lines, packed, wrapped
from easyrlhf.report.metrics import show
from easyrlhf.report.opening import Counted
from easyrlhf.report.pace import Pace
from easyrlhf.report.progress import ProgressBar
from easyrlhf.report.stage_view import VIEWS
from easyrlhf.report.verdict import Verdict
from easyrlhf.streams import lasting

HEADER_EVERY = 20
SHOWN_CHARACTERS = 600


class Console:
    """Everything a stage says to its user.

    stage  its name: decides the columns of row() and the number beside the bar
    file   where to write; by default standard output, but nowhere from any but the first of several processes
    """

    def __init__(self, stage: str, file: TextIO | None = None):
        self._stage = stage
        self._file = file or (lasting(sys.stdout) if os.environ.get("RANK", "0") == "0" else open(os.devnull, "w"))  # noqa: SIM115
        self.rich = None
        if self._file.isatty():
            from rich.console import Console as RichConsole

            self.rich = RichConsole(file=self._file)
        self._progress: ProgressBar | None = None
        self._rows = 0
        self._told: set[str] = set()

    @property
    def width(self) -> int | None:
        """Columns to stay within: those of the terminal, or of COLUMNS; None where lines may be as long as they are."""
        if self.rich:
            return self.rich.width
        columns = os.environ.get("COLUMNS", "")
        return int(columns) if columns.isdecimal() and int(columns) else None

    def summary(self, title: str, sections: dict[str, list[str]]) -> None:
        """The start summary: one heading a section, its lines below."""
        self._print(title, "bold")
        for heading, lines in sections.items():
            self._print(f"  {heading}", "cyan")
            for line in lines:
                self._say(f"    {line}")
        self._print("")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Say how many rows of a long file are read."""
        with watched_by(Counted(self._file)):
            yield

    @contextmanager
    def progress(
        self,
        total: int,
        done: int = 0,
        unit: str = "step",
        ahead: Callable[[], Mapping[str, int]] | None = None,
        guess: Mapping[str, float] | None = None,
    ) -> Iterator[ProgressBar]:
        """A bar from `done` to `total`, as Progress has it; call .advance(metrics) on it after each unit."""
        pace = Pace(ahead, guess) if ahead else None
        self._progress = ProgressBar(self, total, done, unit, VIEWS[self._stage].beside_bar, pace)
        try:
            with self._progress:
                yield self._progress
        finally:
            self._progress = None

    def row(self, step: int, metrics: dict[str, float]) -> None:
        """One line of the table, with its header now and then; eval/ metrics on a line below."""
        columns = columns_of(self._stage, self.width)
        counter = f"{step}/{self._progress.total}" if self._progress else str(step)
        gap = " " * GAP
        if any(name in metrics for _, _, name in columns):
            if self._rows % HEADER_EVERY == 0:
                titles = "".join(f"{gap}{title:>{width}}" for title, width, _ in columns)
                self._print(f"{'step':>{COUNTER}}{titles}{gap}{'left':>{LEFT}}", "bold")
            cells = "".join(gap + cell(name, metrics.get(name), width) for _, width, name in columns)
            left = self._progress.left() if self._progress else ""
            self._print(f"{counter:>{COUNTER}}{cells}{gap}{left:>{LEFT}}")
            self._rows += 1
        evaluated = {name: value for name, value in metrics.items() if name.startswith("eval/")}
        if evaluated:
            numbers = [f"{name.removeprefix('eval/')} {show(name, value)}" for name, value in evaluated.items()]
            for line in packed(f"{counter:>{COUNTER}}  eval", numbers, self.width):
                self._print(line, "green")

    def sample(self, prompt: str, completion: str, **numbers: float) -> None:
        """One prompt with its completion, newlines as ⏎, and signed numbers (score, kl, total)."""
        self._say(f"  ┌ {one_line(prompt)}", "dim")
        self._say(f"  │ {one_line(completion)}")
        signed = "   ".join(f"{name} {value:+.3f}" for name, value in numbers.items())
        self._say(f"  └ {signed}", "cyan")

    def note(self, text: str, style: str = "") -> None:
        """One remark, plain unless a style of rich is given."""
        self._say(text, style)

    def warn(self, text: str) -> None:
        """Something the user should know; the run goes on."""
        self._say(f"warning: {text}", "yellow")

    def verdicts(self, found: list[Verdict], step: int | None = None) -> None:
        """What is wrong, one line each, and none twice in a run.

        step  the step at which it showed; None at the end
        """
        for verdict in found:
            if verdict.severity == "ok" or verdict.text in self._told:
                continue
            self._told.add(verdict.text)
            word = "alarm" if verdict.severity == "alarm" else "warning"
            place = "" if step is None else f" at step {step}"
            self._say(f"{word}{place}: {verdict.text}", "bold red" if word == "alarm" else "yellow")

    def finish(self, lines: list[str], commands: list[list[str]] = ()) -> None:
        """The last words: what was made, where, and the next commands, each in words."""
        self._print("")
        for line in lines:
            self._say(line, "bold" if line is lines[0] else "")
        for words in commands:
            for line in command_lines("next:", list(map(shlex.quote, words)), self.width):
                self._print(line)

    def _say(self, text: str, style: str = "") -> None:
        """Print text, broken between words where it is too long for the terminal."""
        for line in wrapped(text, self.width):
            self._print(line, style)

    def _print(self, text: str, style: str = "") -> None:
        if self.rich:
            from rich.text import Text

            # a Text, not print(style=…), whose style would colour the bar below as well
            self.rich.print(Text(text, style), soft_wrap=True)
        else:
            print(text, file=self._file, flush=True)
        if self._progress:
            self._progress.spoke = time.monotonic()


def say(lines: Iterable[str]) -> None:
    """What a tool has to say, on standard output, broken between words where the terminal is narrower."""
    Console("").note("\n".join(lines))


def one_line(text: str) -> str:
    """`text` on one printable line: newlines as ⏎, other control characters as �, long text cut."""
    if len(text) > SHOWN_CHARACTERS:
        half = SHOWN_CHARACTERS // 2
        text = f"{text[:half]} … {text[-half:]}"
    text = text.replace("\r\n", "\n").replace("\n", "⏎").replace("\t", " ")
    return "".join(c if c.isprintable() else "�" for c in text)


@contextmanager
def counting_bar(unit: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar of its own, from `done` to `total`; yields a function that moves it by so many units."""
    with ProgressBar(Console(unit), total, done, unit) as bar:

        def advance(count: int = 1) -> None:
            for _ in range(count):
                bar.advance()

        yield advance

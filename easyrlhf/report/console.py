"""The terminal of a run: rich when standard output is a terminal, plain lines otherwise."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from easyrlhf.report.diagnostics import Verdict
from easyrlhf.report.metrics import COMPARING, OFFLINE, ONLINE, show
from easyrlhf.streams import lasting

# stage -> (column title, width, metric) of the table that row() prints
COLUMNS: dict[str, tuple[tuple[str, int, str], ...]] = {
    "sft": (
        ("loss", 8, "loss"),
        ("grad", 8, "grad_norm"),
        ("lr", 9, "learning_rate"),
        ("epoch", 6, "epoch"),
        ("tok/s", 8, "tokens_per_second"),
    ),
    "rm": (
        ("loss", 8, "loss"),
        ("accuracy", 8, "rewards/accuracies"),
        ("margin", 8, "rewards/margins"),
        ("grad", 8, "grad_norm"),
        ("lr", 9, "learning_rate"),
        ("epoch", 6, "epoch"),
        ("tok/s", 8, "tokens_per_second"),
    ),
    "ppo": (
        ("score", 7, "objective/scores"),
        ("kl", 7, "objective/kl"),
        ("reward", 7, "objective/rlhf_reward"),
        ("entropy", 7, "policy/entropy_avg"),
        ("clip", 5, "policy/clipfrac_avg"),
        ("expl.var", 8, "value/explained_variance"),
        ("length", 6, "length/completion_mean"),
        ("eos", 5, "health/eos_rate"),
        ("sec", 6, "time/step"),
    ),
}
PREFERENCE_COLUMNS = (
    ("loss", 8, "loss"),
    ("accuracy", 8, "rewards/accuracies"),
    ("margin", 8, "rewards/margins"),
    ("chosen", 8, "logps/chosen"),
    ("rejected", 8, "logps/rejected"),
    ("grad", 8, "grad_norm"),
    ("lr", 9, "learning_rate"),
    ("epoch", 6, "epoch"),
)
COLUMNS |= dict.fromkeys(COMPARING, PREFERENCE_COLUMNS)
COLUMNS["rrhf"] = tuple(column for column in PREFERENCE_COLUMNS if column[0] not in ("margin", "chosen", "rejected"))
COLUMNS["kto"] = (
    ("loss", 8, "loss"),
    ("chosen", 8, "rewards/chosen"),
    ("rejected", 8, "rewards/rejected"),
    ("margin", 8, "rewards/margins"),
    ("kl", 8, "kl"),
    *COLUMNS["rrhf"][2:],
)
COLUMNS["grpo"] = tuple(
    ("equal", 5, "health/equal_groups") if name == "expl.var" else (name, width, metric)
    for name, width, metric in COLUMNS["ppo"]
)
SCORE = ("score", "objective/scores")
BAR_METRIC = dict.fromkeys(OFFLINE, ("loss", "loss")) | dict.fromkeys(ONLINE, SCORE)
HEADER_EVERY = 20
QUIET_SECONDS = 30.0
SHOWN_CHARACTERS = 600


class Console:
    """Everything a stage says to its user.

    stage  its name: decides the columns of row() and the number beside the bar
    file   where to write; by default standard output, but nowhere from any but the first of several processes
    """

    def __init__(self, stage: str, file: TextIO | None = None):
        self._stage = stage
        self._file = file or (lasting(sys.stdout) if os.environ.get("RANK", "0") == "0" else open(os.devnull, "w"))  # noqa: SIM115
        self._rich = None
        if self._file.isatty():
            from rich.console import Console as RichConsole

            self._rich = RichConsole(file=self._file)
        self._progress: Progress | None = None
        self._rows = 0
        self._told: set[str] = set()

    def summary(self, title: str, sections: dict[str, list[str]]) -> None:
        """The start summary: one heading a section, its lines below."""
        self._print(title, "bold")
        for heading, lines in sections.items():
            self._print(f"  {heading}", "cyan")
            for line in lines:
                self._print(f"    {line}")
        self._print("")

    @contextmanager
    def progress(self, total: int, done: int = 0, unit: str = "step") -> Iterator["Progress"]:
        """A bar from `done` to `total`; call .advance(metrics) on what it yields after each unit.

        Without a terminal: a line when nothing else was printed for 30 seconds.
        """
        self._progress = Progress(self, total, done, unit, BAR_METRIC[self._stage])
        try:
            with self._progress:
                yield self._progress
        finally:
            self._progress = None

    def row(self, step: int, metrics: dict[str, float]) -> None:
        """One line of the table, with its header now and then; eval/ metrics on a line below."""
        columns = COLUMNS[self._stage]
        counter = f"{step}/{self._progress.total}" if self._progress else str(step)
        if any(name in metrics for _, _, name in columns):
            if self._rows % HEADER_EVERY == 0:
                titles = "".join(f"  {title:>{width}}" for title, width, _ in columns)
                self._print(f"{'step':>11}{titles}  {'left':>7}", "bold")
            cells = "".join(f"  {show(name, metrics.get(name)):>{width}}" for _, width, name in columns)
            left = self._progress.left() if self._progress else ""
            self._print(f"{counter:>11}{cells}  {left:>7}")
            self._rows += 1
        evaluated = {name: value for name, value in metrics.items() if name.startswith("eval/")}
        if evaluated:
            numbers = "  ".join(
                f"{name.removeprefix('eval/')} {show(name, value)}" for name, value in evaluated.items()
            )
            self._print(f"{counter:>11}  eval  {numbers}", "green")

    def sample(self, prompt: str, completion: str, **numbers: float) -> None:
        """One prompt with its completion, newlines as ⏎, and signed numbers (score, kl, total)."""
        self._print(f"  ┌ {one_line(prompt)}", "dim")
        self._print(f"  │ {one_line(completion)}")
        signed = "   ".join(f"{name} {value:+.3f}" for name, value in numbers.items())
        self._print(f"  └ {signed}", "cyan")

    def note(self, text: str) -> None:
        """One plain remark."""
        self._print(text)

    def warn(self, text: str) -> None:
        """Something the user should know; the run goes on."""
        self._print(f"warning: {text}", "yellow")

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
            self._print(f"{word}{place}: {verdict.text}", "bold red" if word == "alarm" else "yellow")

    def finish(self, lines: list[str]) -> None:
        """The last words: what was made, where, and the next command."""
        self._print("")
        for line in lines:
            self._print(line, "bold" if line is lines[0] else "")

    def _print(self, text: str, style: str = "") -> None:
        if self._rich:
            from rich.text import Text

            # a Text, not print(style=…), whose style would colour the bar below as well
            self._rich.print(Text(text, style), soft_wrap=True)
        else:
            print(text, file=self._file, flush=True)
        if self._progress:
            self._progress.spoke = time.monotonic()


class Progress:
    """The bar of one phase; made by Console.progress."""

    def __init__(self, console: Console, total: int, done: int, unit: str, shown: tuple[str, str]):
        self.total, self.done = total, done
        self.spoke = self._began = time.monotonic()
        self._console, self._unit, self._shown = console, unit, shown
        self._first = done
        self._bar = _rich_bar(console._rich, total, done, unit) if console._rich else None

    def __enter__(self) -> "Progress":
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
        headline = f"{title} {show(name, metrics[name])}" if metrics and name in metrics else ""
        if self._bar:
            changed = {"headline": headline} if headline else {}
            self._bar.update(self._bar.task_ids[0], completed=self.done, speed=self._speed(), **changed)
        elif time.monotonic() - self.spoke >= QUIET_SECONDS:
            share = f"{self.done / self.total:.0%}" if self.total else ""
            parts = (f"{self._unit} {self.done}/{self.total}", share, headline, self._speed())
            text = " · ".join(part for part in (*parts, f"{self.left()} left") if part)
            self._console._print(text)
            self.spoke = time.monotonic()

    def left(self) -> str:
        """Time to the end at the mean pace so far, as m:ss or h:mm:ss; "" before the first unit."""
        done = self.done - self._first
        if not done:
            return ""
        seconds = (time.monotonic() - self._began) / done * (self.total - self.done)
        minutes, seconds = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

    def _speed(self) -> str:
        pace = (self.done - self._first) / max(time.monotonic() - self._began, 1e-9)
        return f"{pace:.2f} {self._unit}/s" if pace >= 0.1 else f"{1 / pace:.1f} s/{self._unit}"


def one_line(text: str) -> str:
    """`text` on one printable line: newlines as ⏎, other control characters as �, long text cut."""
    if len(text) > SHOWN_CHARACTERS:
        half = SHOWN_CHARACTERS // 2
        text = f"{text[:half]} … {text[-half:]}"
    text = text.replace("\r\n", "\n").replace("\n", "⏎").replace("\t", " ")
    return "".join(c if c.isprintable() else "�" for c in text)


def _rich_bar(console, total: int, done: int, unit: str):
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    bar = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[headline]}", style="bold"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    bar.add_task(unit, total=total, completed=done, headline="", speed="")
    return bar

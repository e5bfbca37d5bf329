"""What a command says before it imports anything heavy, and while it reads a long file. Light to import."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from easyrlhf.config.base import Settings
from easyrlhf.data.watching import watched_by

QUIET_SECONDS = 30.0
SHOWN = 0.2  # seconds between two changes of the line on a terminal


def opening_of(settings: Settings) -> str:
    """The first line of a command, `reading demos.jsonl …`; "" where it loads nothing large."""
    return settings.opening.format(self=settings)


def say_at_once(line: str, file: TextIO) -> None:
    """Write a first line, if there is one; of several processes the first does."""
    if line and os.environ.get("RANK", "0") == "0":
        print(line, file=file, flush=True)


class Counted:
    """Says how many rows of a file are read: on one line that changes, or without a terminal on a line every 30 s."""

    def __init__(self, file: TextIO):
        self._file, self._terminal = file, file.isatty()
        self._spoke, self._width = time.monotonic(), 0

    def __call__(self, name: str, rows: int | None) -> None:
        """Take in that so many rows were read; None: no more are."""
        if rows is None:
            self._write("")
            return
        now = time.monotonic()
        if now - self._spoke < (SHOWN if self._terminal else QUIET_SECONDS):
            return
        self._spoke = now
        self._write(f"reading {name}: {rows:,} rows")

    def _write(self, text: str) -> None:
        if not self._terminal:
            print(text, end="\n" if text else "", file=self._file, flush=True)
            return
        room = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be taken back
        text = text if len(text) <= room else f"…{text[1 - room :]}"
        if text or self._width:
            print(f"\r{text:<{self._width}}", end="" if text else "\r", file=self._file, flush=True)
            self._width = len(text)


def opened(line: str, work: Callable[[], Any]) -> Callable[[], Any]:
    """The work of a tool behind its first line, while the rows that it reads are counted; both on standard error."""

    def run() -> Any:
        say_at_once(line, sys.stderr)
        with watched_by(Counted(sys.stderr)):
            return work()

    return run

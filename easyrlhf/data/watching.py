"""Who watches rows being read: long files are counted for a user without any reader knowing of it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

EVERY = 500  # rows

Row = TypeVar("Row")
Watcher = Callable[[str, int | None], None]  # (what is read, rows so far); None when all are read
_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Tell this one of everything that is read in here."""
    before = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(before)


def watched(name: str, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows as they are; whoever watches is told how many there were so far, and when no more are wanted."""
    watcher = _watcher.get()
    if watcher is None:
        yield from rows
        return
    try:
        for number, row in enumerate(rows, 1):
            if number % EVERY == 0:
                watcher(name, number)
            yield row
    finally:
        watcher(name, None)

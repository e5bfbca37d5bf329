"""A row as a file has it, before its format is recognised."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


class Cell(str):
    """The text of a table's cell, which may stand for a number or a list where a format has one."""

    __slots__ = ()


@dataclass(frozen=True)
class RawRow:
    """One row as it lies in the file, or as --transform and --field made it of one.

    value    the decoded row; the text of the line when it could not be decoded
    fault    why it cannot be read
    dropped  why it is left out, where that was asked for
    """

    place: str
    value: Any
    fault: str | None = None
    dropped: str | None = None


def numbered(name: str, rows: Iterable[Any]) -> Iterator[RawRow]:
    """Rows of what has no lines, with places `name:row 3`, counted from 1."""
    for number, row in enumerate(rows, 1):
        yield RawRow(f"{name}:row {number}", row)

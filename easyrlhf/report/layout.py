"""What fits into the width of a terminal: which columns of the table, and where lines end."""

import sys
import textwrap
from collections.abc import Iterable

from easyrlhf.report.metrics import show
from easyrlhf.report.stage_view import VIEWS, Column

# what a narrow terminal does without, the least telling first; the first column of a stage always stays
SPARED = "lr epoch clip entropy grad tok/s rejected chosen sec eos reward expl.var equal length kl alike align margin"
SPARED += " accuracy"
COUNTER, LEFT, GAP = 11, 7, 2  # widths of the first column, the last one, and what is between two
NARROW = 60  # below that, what follows a first line is hardly indented


def columns_of(stage: str, width: int | None) -> list[Column]:
    """The columns of a stage's table that fit into so many characters beside the counter and the time left."""
    columns = list(VIEWS[stage].columns)
    spared = iter(SPARED.split())
    while width is not None and table_width(columns) > width and len(columns) > 1:
        title = next(spared)
        columns = columns[:1] + [column for column in columns[1:] if column[0] != title]
    return columns


def table_width(columns: Iterable[Column]) -> int:
    """Characters of a row with these columns."""
    return COUNTER + sum(GAP + width for _, width, _ in columns) + GAP + LEFT


def cell(name: str, value: float | None, width: int) -> str:
    """A metric's value in so many characters: with fewer digits where they are too many."""
    shown = show(name, value)
    for digits in (3, 2, 1):
        if len(shown) <= width:
            break
        shown = f"{value:.{digits}g}"
    return shown.rjust(width)


def wrapped(text: str, width: int | None, hang: int = 2) -> list[str]:
    """Lines of at most so many characters, broken between words alone; a longer word goes over the edge.

    hang  by how much the lines after the first are indented more than it
    """
    if width is None:
        return text.split("\n")
    lines = []
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip())
        after = " " * min(indent + hang, width // 3)
        how = {"break_long_words": False, "break_on_hyphens": False, "replace_whitespace": False}
        lines += textwrap.wrap(line, width, subsequent_indent=after, **how) or [""]
    return lines


def packed(first: str, items: list[str], width: int | None, gap: str = "  ") -> list[str]:
    """Items behind a first word, in further lines below them where one is too short; none is broken.

    Where the room beside the first word is narrow they begin on a line of their own.
    """
    room, indent = width or sys.maxsize, len(first) + len(gap)
    beside = room >= NARROW and all(indent + len(item) <= room for item in items)
    indent = indent if beside else 4
    lines: list[str] = []
    for item in items:
        if lines and indent + len(lines[-1]) + len(gap) + len(item) <= room:
            lines[-1] += gap + item
        else:
            lines.append(item)
    if beside and lines:
        return [first + gap + lines[0], *(" " * indent + line for line in lines[1:])]
    return [first, *(" " * indent + line for line in lines)]


def command_lines(first: str, words: list[str], width: int | None) -> list[str]:
    """A shell command behind a first word, in lines that can be pasted: broken between flags, with a backslash.

    words  quoted for the shell
    """
    parts: list[str] = []
    for word in words:
        if parts and parts[-1].startswith("--") and not word.startswith("--"):
            parts[-1] += f" {word}"
        else:
            parts.append(word)
    lines = [f"{first} {parts[0]}"]
    for part in parts[1:]:
        if len(lines[-1]) + 1 + len(part) + 2 > (width or sys.maxsize):
            lines[-1] += " \\"
            lines.append(f"    {part}")
        else:
            lines[-1] += f" {part}"
    return lines

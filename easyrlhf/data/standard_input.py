"""Rows from standard input: kept in a file as long as the process runs, since every command reads rows twice."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from easyrlhf.data.decoding import BOM
from easyrlhf.data.files import check_file
from easyrlhf.data.raw import RawRow
from easyrlhf.errors import InputError

NAME = "standard input"
GZIP = b"\x1f\x8b"
SHOWN = 40  # characters of what is no row
_KEPT: list[tempfile.TemporaryDirectory] = []  # gone when the process ends


def open_rows() -> Callable[[], Iterator[RawRow]]:
    """What reads the rows. Raises InputError for what is neither JSON lines nor a JSON list."""
    return partial(_rows, _kept(sys.stdin))


def _rows(path: Path) -> Iterator[RawRow]:
    """The rows of the file, with places `standard input:3`."""
    try:
        for row in check_file(path)(path):
            yield RawRow(row.place.replace(str(path), NAME, 1), row.value, row.fault)
    except InputError as error:
        raise InputError(str(error).replace(str(path), NAME)) from error


def read_text() -> str:
    """All of it as one text, without the line break at its end. Raises InputError."""
    try:
        return _bytes(sys.stdin).removeprefix(BOM).decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"{NAME}: not text in UTF-8 ({error.reason} at byte {error.start}); convert it") from error


@cache
def _kept(stream: Any) -> Path:
    """A file with what the stream holds, named by what that is. Raises InputError."""
    content = _bytes(stream)
    start = content.removeprefix(BOM).lstrip()[:SHOWN]
    if not start:
        raise InputError(f"{NAME}: is empty; pipe rows into the command, as in: cat rows.jsonl | …")
    if not start.startswith((GZIP, b"{", b"[")):
        shown = start.decode("utf-8", errors="replace").splitlines()[0]
        raise InputError(
            f"{NAME}: begins with {shown!r}; expected one JSON object a line, or one JSON list of rows; tables and "
            "other kinds of data are read from files, by the ends of their names"
        )
    _KEPT.append(tempfile.TemporaryDirectory(prefix="easyrlhf-"))
    suffix = ".jsonl.gz" if start.startswith(GZIP) else ".json" if start.startswith(b"[") else ".jsonl"
    file = Path(_KEPT[-1].name, f"rows{suffix}")
    file.write_bytes(content)
    return file


def _bytes(stream: Any) -> bytes:
    """All of a stream. Raises InputError when there is none."""
    if stream is None or stream.closed:
        raise InputError(f"{NAME}: is closed; pipe rows into the command, or name a file")
    if stream.isatty():
        print(f"reading {NAME}; Ctrl-D ends it", file=sys.stderr)
    return stream.buffer.read()

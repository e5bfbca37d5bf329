"""Where rows come from: files, folders and hub data sets, all read lazily and with places."""

import difflib
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from easyrlhf.errors import InputError

HUB_ID = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?(@(?P<split>[^@/]+))?")
SPLIT_PREFIX = re.compile(r"(train|test|valid|validation|val|eval|dev|heldout)(?![a-z])", re.I)
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class RawRow:
    """One row as it lies in the file: its value, or the reason it could not be decoded."""

    place: str
    value: Any  # the decoded row; the text of the line when `fault` is set
    fault: str | None = None


@dataclass(frozen=True)
class Source:
    """One file or hub data set; every call of `read` starts again from its first row."""

    name: str
    read: Callable[[], Iterator[RawRow]]


def open_sources(spec: str) -> list[Source]:
    """The sources that a comma list of files, folders and hub ids names; nothing is read yet.

    Raises InputError when one of them does not exist or is of an unknown kind.
    """
    names = [name.strip() for name in spec.split(",") if name.strip()]
    if not names:
        raise InputError(f"no data: {spec!r} names no file, folder or hub data set")
    return [source for name in names for source in _open_one(name)]


def _open_one(name: str) -> list[Source]:
    path = Path(name).expanduser()
    if path.is_dir():
        return [_open_file(file) for file in _files_of(path)]
    if path.is_file():
        return [_open_file(path)]
    looks_like_a_file = _reader_of(path) is not None or name.startswith((".", "/", "~"))
    hub_id = HUB_ID.fullmatch(name)
    if looks_like_a_file or not hub_id:
        raise InputError(f"{name}: no such file or folder{_near(path)}")
    from easyrlhf.data.hub import load_hub_dataset

    rows = load_hub_dataset(name, **hub_id.groupdict(), hint=_near(path))
    return [Source(name, partial(_number_rows, name, rows))]


def _open_file(path: Path) -> Source:
    reader = _reader_of(path)
    if reader is None:
        raise InputError(f"{path}: unknown kind of file; use one of {', '.join(READERS)}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")
    return Source(str(path), partial(reader, path))


def _files_of(folder: Path) -> list[Path]:
    """Data files directly in a folder; a .gz beside its unpacked form is not read twice."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and _reader_of(p) is not None)
    files = [p for p in files if p.suffix != ".gz" or p.with_suffix("") not in files]
    if not files:
        raise InputError(f"{folder}: the folder holds no data file ({', '.join(READERS)})")
    splits = {m.group(1).lower() for p in files if (m := SPLIT_PREFIX.match(p.name))}
    if len(splits) > 1:
        raise InputError(
            f"{folder}: the folder holds several splits ({', '.join(sorted(splits))}); "
            f"name the file, for example {files[-1]}"
        )
    return files


def _near(path: Path) -> str:
    """A hint at the closest name, when some folder on the way exists."""
    folder = path.parent
    if not folder.is_dir():
        return f"; there is no folder {folder}"
    close = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], 1)
    return f"; did you mean {folder / close[0]}?" if close else ""


def _reader_of(path: Path) -> Callable[[Path], Iterator[RawRow]] | None:
    return next((read for suffix, read in READERS.items() if path.name.endswith(suffix)), None)


def _read_jsonl(path: Path, opener: Callable = open) -> Iterator[RawRow]:
    """One JSON value a line; blank lines and a byte-order mark are passed over."""
    try:
        with opener(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                line = line.removeprefix(BOM) if number == 1 else line
                if line.strip():
                    yield _decode_line(f"{path}:{number}", line)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: the compressed file is damaged or not gzip ({error}); fetch it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _decode_line(place: str, line: bytes) -> RawRow:
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        broken = line.decode("utf-8", errors="backslashreplace").strip()
        fault = f"not UTF-8 (byte {line[error.start]:#04x} at position {error.start}); "
        return RawRow(place, broken, fault + "save the file as UTF-8")
    try:
        return RawRow(place, json.loads(text), _surrogate_fault(text))
    except (ValueError, RecursionError) as error:
        shown = text if len(text) <= 60 else text[:60] + "…"
        what = f"{error.msg} at column {error.colno}" if hasattr(error, "colno") else error
        return RawRow(place, text, f"not JSON ({what}): {shown}; expected one JSON object a line")


def _surrogate_fault(text: str) -> str | None:
    r"""JSON can write half a surrogate pair as \ud83d, which no tokenizer and no file can take."""
    if "\\ud" not in text and "\\uD" not in text:
        return None
    decoded = json.dumps(json.loads(text), ensure_ascii=False)
    half = next((c for c in decoded if "\ud800" <= c <= "\udfff"), None)
    return half and f"half a surrogate pair (\\u{ord(half):x}), which is not text; remove it"


def _read_json(path: Path) -> Iterator[RawRow]:
    """A file that is one JSON list of rows; it is read whole."""
    try:
        text = path.read_bytes().removeprefix(BOM).decode("utf-8")
        rows = json.loads(text)
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(
            f"{path}: not one JSON list in UTF-8 ({error}); a file with one row a line is to be named .jsonl"
        ) from error
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected one JSON list of rows, found {type(rows).__name__}")
    if fault := _surrogate_fault(text):
        raise InputError(f"{path}: {fault}")
    return _number_rows(str(path), rows)


def _read_parquet(path: Path) -> Iterator[RawRow]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=256)
            yield from _number_rows(str(path), (r for batch in batches for r in batch.to_pylist()))
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a readable parquet file ({error})") from error


def _number_rows(name: str, rows) -> Iterator[RawRow]:
    for number, row in enumerate(rows, 1):
        yield RawRow(f"{name}:row {number}", row)


READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": partial(_read_jsonl, opener=gzip.open),
    ".json": _read_json,
    ".parquet": _read_parquet,
}

"""Files of rows: one reader for each kind, all lazy, with the place of every row."""

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from easyrlhf.data.decoding import BOM, decode_all, decode_line, not_utf8, surrogate_fault
from easyrlhf.data.raw import Cell, RawRow, numbered
from easyrlhf.errors import InputError

Reader = Callable[[Path], Iterator[RawRow]]
PACKED = ".gz"
BATCH = 256  # rows of a column file that are in memory at once
LONGEST_CELL = 2**27  # characters: a quote that is never closed would read the rest of the file
END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
ARROW_FILE = b"ARROW1"
TAB = "\t"
ESCAPED = re.compile("[\udc80-\udcff]")  # a byte that is no UTF-8, as Python keeps it
# How a file begins -> what it is; text in another encoding or a file with the wrong name.
UTF_16 = "UTF-16 text; convert it with: iconv -f UTF-16 -t UTF-8 {path} > NEW{suffix}"
UTF_32 = "UTF-32 text; convert it with: iconv -f UTF-32 -t UTF-8 {path} > NEW{suffix}"
BEGINNINGS = {
    b"\xff\xfe\x00\x00": UTF_32,
    b"\x00\x00\xfe\xff": UTF_32,
    b"\xff\xfe": UTF_16,
    b"\xfe\xff": UTF_16,
    b"\x1f\x8b": "packed with gzip; rename it to {path}.gz",
    b"PAR1": "a parquet file; rename it so that it ends with .parquet",
    ARROW_FILE: "an Arrow file; rename it so that it ends with .arrow",
    b"PK\x03\x04": "a zip archive; unpack it with: unzip {path}",
    b"BZh": "packed with bzip2; unpack it with: bunzip2 {path}",
    b"\xfd7zXZ": "packed with xz; unpack it with: unxz {path}",
    b"\x28\xb5\x2f\xfd": "packed with zstd; unpack it with: unzstd {path}",
}
PANDAS = "python -c \"import pandas; pandas.read_{what}('{path}').to_json('NEW.jsonl', orient='records', lines=True)\""
# Suffixes of files that hold rows and are not read -> what to do.
OTHER_KINDS = {
    ".zip": "an archive; unpack it with: unzip {path}",
    ".tar": "an archive; unpack it with: tar -xf {path}",
    ".tar.gz": "an archive; unpack it with: tar -xf {path}",
    ".tgz": "an archive; unpack it with: tar -xf {path}",
    ".7z": "an archive; unpack it first",
    ".rar": "an archive; unpack it first",
    ".bz2": "packed with bzip2; unpack it with: bunzip2 {path}",
    ".xz": "packed with xz; unpack it with: unxz {path}",
    ".zst": "packed with zstd; unpack it with: unzstd {path}",
    ".txt": 'plain text, which has no columns; write a .jsonl file with one object a line, such as {{"prompt": "…"}}',
    ".xlsx": "a spreadsheet; save it as .csv",
    ".xls": "a spreadsheet; save it as .csv",
    ".ods": "a spreadsheet; save it as .csv",
    ".pkl": f"a pickle, which may run code; if you trust it, convert it with: {PANDAS.replace('{what}', 'pickle')}",
    ".pickle": f"a pickle, which may run code; if you trust it, convert it with: {PANDAS.replace('{what}', 'pickle')}",
    ".feather": f"a Feather file; convert it with: {PANDAS.replace('{what}', 'feather')}",
    ".orc": f"an ORC file; convert it with: {PANDAS.replace('{what}', 'orc')}",
    ".xml": "XML; write a .jsonl file with one object a line",
    ".yaml": "YAML; write a .jsonl file with one object a line",
    ".db": "a data base; write a .jsonl file with one object a line",
    ".sqlite": "a data base; write a .jsonl file with one object a line",
}


def reader_of(path: Path) -> Reader | None:
    """The reader for a file of this name; None when there is none."""
    suffix, packed = kind_of_file(path)
    return READERS.get(suffix) if not packed or suffix in TEXTS else None


def kind_of_file(path: Path) -> tuple[str, bool]:
    """The suffix of a file's name in small letters, without .gz, and whether that was there."""
    name = path.name.lower()
    plain = name.removesuffix(PACKED)
    return Path(plain).suffix, plain != name


def other_kind(path: Path) -> str | None:
    """What to do with a file that holds rows but is not read; None for any other file."""
    name = path.name.lower()
    says = next((says for suffix, says in OTHER_KINDS.items() if name.endswith(suffix)), None)
    return says and f"{path}: is {says.format(path=path)}"


def check_file(path: Path) -> Reader:
    """The reader for a file. Raises InputError when there is none, when it is empty, or is not what its name says."""
    reader = reader_of(path)
    if reader is None:
        raise InputError(other_kind(path) or f"{path}: unknown kind of file; use one of {SUFFIXES}")
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if not start:
        raise InputError(f"{path}: the file is empty")
    suffix, packed = kind_of_file(path)
    if suffix in TEXTS and not packed:
        _require_text(path, start)
    return reader


def _require_text(path: Path, start: bytes) -> None:
    """Raise InputError when a file that is to be UTF-8 begins as something else does."""
    found = next((says for begin, says in BEGINNINGS.items() if start.startswith(begin)), None)
    if found is None and b"\0" in start[:2] and len(start) > 1:
        found = UTF_16.replace("-f UTF-16", "-f UTF-16BE" if start[0] == 0 else "-f UTF-16LE")
    if found:
        raise InputError(f"{path}: is {found.format(path=path, suffix=path.suffix)}")


@contextmanager
def _opened(path: Path, **how) -> Iterator[IO]:
    """The file, unpacked while it is read. Raises InputError for a damaged one."""
    opener = gzip.open if kind_of_file(path)[1] else open
    try:
        with opener(path, **how) as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: the compressed file is damaged or not gzip ({error}); fetch it again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def read_jsonl(path: Path) -> Iterator[RawRow]:
    """One JSON value a line; blank lines and a byte-order mark are passed over."""
    with _opened(path, mode="rb") as lines:
        for number, line in enumerate(lines, 1):
            line = line.removeprefix(BOM) if number == 1 else line
            if line.strip():
                yield decode_line(f"{path}:{number}", line)


def read_json_file(path: Path) -> Iterator[RawRow]:
    """A file that is one JSON list of rows; it is read whole."""
    with _opened(path, mode="rb") as file:
        content = file.read()
    try:
        text = content.removeprefix(BOM).decode("utf-8")
        rows, fault_of = decode_all(text.strip())
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not one JSON list in UTF-8 ({error}); a file with one row a line is to be named .jsonl"
        ) from error
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected one JSON list of rows, found {_no_list(path, rows)}")
    if fault := surrogate_fault(text):
        raise InputError(f"{path}: {fault}")
    return (RawRow(raw.place, raw.value, fault_of(raw.value)) for raw in numbered(str(path), rows))


def _no_list(path: Path, value: object) -> str:
    """What a JSON file holds in place of a list, and how to take the list out of it."""
    if not isinstance(value, dict):
        return f"a {type(value).__name__}"
    found = f"one object with keys {', '.join(value)}" if value else "an empty object"
    lists = [key for key, inside in value.items() if isinstance(inside, list) and isinstance((inside or [0])[0], dict)]
    if not lists:
        return found
    return (
        f"{found}; the rows seem to be under '{lists[0]}': write them alone, with: python -c \"import json; "
        f"json.dump(json.load(open('{path}'))['{lists[0]}'], open('NEW.json', 'w'))\""
    )


def read_csv(path: Path, delimiter: str) -> Iterator[RawRow]:
    """A table with a header; every value is a Cell. Cells in quotes may hold new lines; a row's place is its first."""
    how = {"mode": "rt", "encoding": "utf-8-sig", "errors": "surrogateescape", "newline": ""}
    with _opened(path, **how) as file:
        csv.field_size_limit(LONGEST_CELL)
        table = csv.reader(file, delimiter=delimiter, strict=True)
        header = None
        for place, cells in _records(path, table):
            if header is None:
                header = _header(place, cells, delimiter)
            elif len(cells) != len(header):
                fault = f"{len(cells)} cells, but the header has {len(header)}; put quotes around a cell with"
                yield RawRow(place, cells, f"{fault} {'tabs' if delimiter == TAB else 'commas'} or new lines in it")
            else:
                yield RawRow(place, dict(zip(header, map(Cell, cells), strict=True)), _cells_fault(cells))


def _records(path: Path, table) -> Iterator[tuple[str, list[str]]]:
    """The records of a table that are not blank, each with the place of its first line."""
    while True:
        place = f"{path}:{table.line_num + 1}"
        try:
            cells = next(table)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{place}: the record that begins here is no CSV ({error}); correct its quotes") from error
        if cells:  # a blank line has none
            yield place, cells


def _header(place: str, cells: list[str], delimiter: str) -> list[str]:
    """The names of the columns; one without a name, as pandas leaves for its index, is called as pandas calls it."""
    other = next((mark for mark in (";", TAB, ",", "|") if mark != delimiter and mark in cells[0]), None)
    if len(cells) == 1 and other:
        raise InputError(
            f"{place}: the columns seem to be separated by {other!r}, expected {delimiter!r}; save the table with "
            "commas as .csv, or with tabs as .tsv"
        )
    if fault := _cells_fault(cells):
        raise InputError(f"{place}: {fault}")
    names = [name.strip() or f"Unnamed: {column}" for column, name in enumerate(cells)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{place}: two columns are called '{twice[0]}'; give them different names")
    return names


def _cells_fault(cells: list[str]) -> str | None:
    """The fault of cells that were not UTF-8: their bytes were kept as halves of surrogate pairs."""
    found = next(filter(None, map(ESCAPED.search, cells)), None)
    return found and not_utf8(ord(found[0]) - 0xDC00, found.start())


def read_parquet(path: Path) -> Iterator[RawRow]:
    """The rows of a parquet file, a few at a time."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=BATCH)
            yield from numbered(str(path), (row for batch in batches for row in batch.to_pylist()))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable parquet file ({error})") from error


def read_arrow(path: Path) -> Iterator[RawRow]:
    """The rows of an Arrow file, in stream form, as `datasets` writes it, or in file form; a few at a time."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as file:
            parts = _batches(file)
            yield from numbered(str(path), (row for part in parts for row in part.to_pylist()))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable Arrow file ({error}); fetch or write it again") from error


def _batches(file) -> Iterator:
    """Record batches of at most BATCH rows."""
    import pyarrow

    in_file_form = file.read(len(ARROW_FILE)) == ARROW_FILE
    if not in_file_form:
        file.seek(max(0, file.size() - len(END_OF_STREAM)))
        if file.read() != END_OF_STREAM:
            raise pyarrow.ArrowInvalid("its end is missing: it was cut, or its writer never finished")
    file.seek(0)
    if in_file_form:
        opened = pyarrow.ipc.open_file(file)
        batches = (opened.get_batch(number) for number in range(opened.num_record_batches))
    else:
        batches = pyarrow.ipc.open_stream(file)
    for batch in batches:
        yield from (batch.slice(start, BATCH) for start in range(0, batch.num_rows, BATCH))


TEXTS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json_file,
    ".csv": partial(read_csv, delimiter=","),
    ".tsv": partial(read_csv, delimiter=TAB),
}
READERS: dict[str, Reader] = TEXTS | {".parquet": read_parquet, ".arrow": read_arrow}
SUFFIXES = f"{', '.join(TEXTS)} (also packed, as .jsonl.gz), .parquet, .arrow"

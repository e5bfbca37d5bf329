"""easyrlhf data split: rows for training and rows for validation, no prompt in both."""

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from easyrlhf.data.ledger import DataSummary, Ledger
from easyrlhf.data.reader import RowSettings
from easyrlhf.data.sources import Source
from easyrlhf.data.splitting import HeldOut, hold_out
from easyrlhf.errors import InputError
from easyrlhf.files import make_folder
from easyrlhf.report.console import say

SIDES = ("train", "valid")
Counts = dict[tuple[str, str], int]  # (side, format) -> rows


def split_data(
    files: str,
    output_dir: str | Path,
    *,
    valid: float,
    seed: int = 42,
    overwrite: bool = False,
    **rows: Any,
) -> DataSummary:
    """Write the rows of `files` as they are to `train.jsonl` and `valid.jsonl`, all rows of a prompt to one of them.

    files   comma list of files, folders and hub ids
    valid   share of the rows to hold out; data/splitting.py chooses them
    rows    how they are read: format, field, transform, on_bad_row, as RowSettings has them
    Rows of several formats get a file for each, `train/FORMAT.jsonl`. Dropped rows go to bad_rows.jsonl.
    Raises InputError for rows that cannot be read, and for an output that would overwrite something.
    """
    if not 0 < valid < 1:
        raise InputError(f"--valid {valid:g}: must be a share of the rows between 0 and 1, such as 0.05")
    reading, folder = RowSettings(**rows), Path(output_dir)
    sources = reading.open(files)
    check_sources(sources, folder)
    check_folder(folder, overwrite)
    held_out = hold_out(sources, None, valid, seed, reading)
    make_folder(folder)
    ledger = Ledger("split", folder / "bad_rows.jsonl")
    try:
        counts = write_sides(sources, held_out, folder, ledger, reading)
        written = put_in_place(folder, counts)
    except OSError as error:
        raise InputError(f"--output_dir {folder}: cannot be written ({error.strerror}); make room there") from error
    finally:
        for left in folder.glob("*.tmp"):
            left.unlink()
    ledger.unused.clear()  # rows are written with all of their keys
    summary = ledger.summary("")
    share = sum(rows for (side, _), rows in counts.items() if side == "valid") / ledger.used
    lines = [f"{file}: {counts[key]:,} rows" for key, file in written.items()]
    held = f"held out: {share:.1%} of the rows, all of {len(held_out.keys):,} prompts (seed {seed})"
    say([*summary.lines(), *lines, held])
    return summary


def check_sources(sources: list[Source], folder: Path) -> None:
    """Raise InputError for weights, and for a file that lies where an output would."""
    for source in sources:
        if source.weight != 1:
            raise InputError(
                f"{source.name}={source.weight:g}: every row is written once; the stage that trains takes weights"
            )
        path = Path(source.name).expanduser().resolve()
        if not path.exists():  # a hub id, or standard input
            continue
        if path.parent == folder.resolve() or any(path.is_relative_to((folder / side).resolve()) for side in SIDES):
            raise InputError(f"--output_dir {folder}: {source.name} lies there; give another folder")


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raise InputError when something is there that would be overwritten, or mistaken for what is written."""
    there = [folder / name for side in SIDES for name in (f"{side}.jsonl", side) if (folder / name).exists()]
    if there and not overwrite:
        raise InputError(f"--output_dir {folder}: {there[0]} is there already; give another folder, or --overwrite")
    if folders := [path for path in there if path.is_dir()]:
        raise InputError(f"--output_dir {folder}: {folders[0]} is a folder, which is not overwritten; delete it")


def write_sides(sources: list[Source], held_out: HeldOut, folder: Path, ledger: Ledger, reading: RowSettings) -> Counts:
    """Write every usable row to `SIDE.FORMAT.tmp`; returns how many rows each has."""
    counts: Counts = {}
    with ExitStack() as stack:
        files: dict[tuple[str, str], Any] = {}
        for source in sources:
            for record, row in reading.records(source, None, ledger):
                key = SIDES[held_out.has(record)], ledger.formats[-1]
                if key not in files:
                    files[key] = stack.enter_context(unfinished(folder, *key).open("w", encoding="utf-8"))
                files[key].write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                counts[key] = counts.get(key, 0) + 1
                ledger.used += 1
                ledger.rows += 1
    return counts


def unfinished(folder: Path, side: str, format: str) -> Path:
    """Where rows are written until all is well."""
    return folder / f"{side}.{file_name(format)}.tmp"


def file_name(format: str) -> str:
    """`preference_conversational` for "preference, conversational"."""
    return format.replace(",", "").replace(" ", "_")


def put_in_place(folder: Path, counts: Counts) -> dict[tuple[str, str], Path]:
    """Give the files their names; returns them, those for training first."""
    alone = len({format for _, format in counts}) == 1
    written = {}
    for side, format in sorted(counts):
        target = folder / f"{side}.jsonl" if alone else folder / side / f"{file_name(format)}.jsonl"
        target.parent.mkdir(exist_ok=True)
        os.replace(unfinished(folder, side, format), target)
        written[side, format] = target
    return written

"""A folder that is claimed for a comparison, whatever it is that goes on in it."""

import json
from pathlib import Path
from typing import Any

from easyrlhf.errors import InputError
from easyrlhf.tools.resumable import changed_settings, read_record, write_result

RECORD_FILE = "run.json"
LOCK_FILE = ".lock"


def claim_journal(folder: Path, settings: dict[str, Any], overwrite: bool) -> str:
    """What the folder is to a command with these settings: "new", "unfinished" or "complete".

    Raises InputError when it holds the work of other settings, or files that are not ours.
    """
    if overwrite:
        return "new"
    known = read_journal_record(folder)
    if not known:
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in (LOCK_FILE, "bad_rows.jsonl"))
        if foreign:
            raise InputError(
                f"--output_dir {folder}: holds files that this command did not write ({', '.join(foreign[:3])}); give "
                "another folder, or --overwrite to write beside them"
            )
        return "new"
    then = known["settings"]
    names = sorted(name for name in then.keys() | settings.keys() if then.get(name) != settings.get(name))
    if names:
        raise changed_settings(f"--output_dir {folder}", "folder", then, settings, names)
    return "complete" if known["complete"] else "unfinished"


def read_journal_record(folder: Path) -> dict[str, Any]:
    """run.json of a folder, or {} when it has none. Raises InputError when it cannot be read."""
    keys = ("settings", "complete", "data")
    return read_record(folder / RECORD_FILE, keys, "give another --output_dir, or --overwrite")


def write_record(folder: Path, settings: dict[str, Any], data: str, complete: bool) -> None:
    """Write run.json: the settings, the SHA-256 of the inputs, and whether all is done."""
    record = {"settings": settings, "data": data, "complete": complete}
    write_result(folder / RECORD_FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")

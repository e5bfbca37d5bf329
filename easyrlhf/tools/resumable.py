"""The same command goes on: what it writes is on disk at once, and what decides the rows may not change meanwhile."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from easyrlhf.config.base import Settings
from easyrlhf.errors import InputError, RunError
from easyrlhf.files import write_whole
from easyrlhf.run.inputs import files_contents
from easyrlhf.tools.at_hand import state_file


def beside(file: Path, ending: str) -> Path:
    """FILE.ending."""
    return file.with_name(f"{file.name}.{ending}")


def append(file: Path, lines: bytes) -> None:
    """Put lines at the end of a file, on disk when this returns. Raises RunError when the disk does not take them."""
    try:
        with file.open("ab") as out:
            out.write(lines)
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        raise RunError(
            f"{file}: could not be written ({error.strerror}); what was written before is kept, and the same command "
            "goes on from there"
        ) from error


def write_result(file: Path, text: str) -> None:
    """Write a file whole or not at all. Raises RunError when the disk does not take it."""
    try:
        write_whole(file, text)
    except OSError as error:
        raise RunError(f"{file}: could not be written ({error.strerror}); the same command tries again") from error


def read_record(file: Path, keys: Iterable[str], remedy: str) -> dict[str, Any]:
    """The keys of what the command has noted of itself, `settings` among them, or {} when it has noted nothing.

    Raises InputError, with the remedy, when that cannot be read.
    """
    if not file.exists():
        return {}
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        return {key: known[key] for key in keys} | {"settings": dict(known["settings"])}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: is not as this command wrote it; {remedy}") from error


CODE = ("environment", "tools")  # settings that name functions which decide the rows


def deciding_settings(config: Settings, free: set[str], models: dict[str, str | None]) -> dict[str, Any]:
    """What decides the rows: the settings but those in `free`, the models' folders' state, and functions' files.

    models  what a model is called here → its folder or hub id
    """
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in free}
    for name, path in models.items():
        stage = path and state_file(path)
        if stage and stage.exists():
            settings[f"stage of {name}"] = hashlib.sha256(stage.read_bytes()).hexdigest()[:16]
    for name in CODE:
        if config.value(name):
            settings[f"code of {name}"] = files_contents(config.value(name))
    return settings


def changed_settings(place: str, kind: str, then: dict, now: dict, names: Iterable[str]) -> InputError:
    """The error to raise where the work of a place was begun with other settings.

    kind  file or folder: another one of them is a way out
    """
    changed = "\n".join(f"  {name}: {then.get(name)} → {now.get(name)}" for name in names)
    return InputError(
        f"{place}: was begun with other settings:\n{changed}\n"
        f"give another {kind}, the same settings to go on, or --overwrite to begin anew"
    )

"""What a run's settings name, by content: models, files of rows, files of functions, templates."""

import dataclasses
from pathlib import Path
from typing import Any

from easyrlhf.config import TrainConfig
from easyrlhf.config.base import FILES, MODEL
from easyrlhf.config.common_fields import BROUGHT
from easyrlhf.data.sources import open_sources
from easyrlhf.errors import InputError
from easyrlhf.models.parents import contents_of, known_checksum
from easyrlhf.paths import split_paths

PARTS = {"train": "train_data", "valid": "valid_data", "ptx": "ptx_data"}  # of the data → the setting that names it


def inputs_of(config: TrainConfig) -> dict[str, Any]:
    """Setting → contents of what it names, for stage.json; what has none that can be read here is left out."""
    found = {}
    for setting in dataclasses.fields(config):
        value = config.value(setting.name)
        if value is not None:
            found[setting.name] = contents_of_setting(setting.name, setting.metadata.get("on_resume"), value)
    return {name: content for name, content in found.items() if content is not None}


def contents_of_setting(name: str, kind: str | None, value: str) -> Any:
    """What a setting names, so that equal contents are equal here wherever they lie: checksums, in order for files.

    kind  MODEL, ROWS or FILES, as the setting's field says
    None for what names no file, and for what is not there.
    """
    if kind == MODEL:
        return contents_of(value)
    if name in PARTS.values():
        return rows_contents(value)
    return files_contents(value) if kind == FILES or name == "transform" else None


def rows_contents(spec: str) -> list[str] | None:
    """The checksum and the weight of every file that is read, in order; None when not all of it is in files."""
    try:
        sources = open_sources(spec)
        return [f"{known_checksum(Path(one.name))} x {one.weight:g}" for one in sources]
    except (InputError, OSError):  # a hub data set, or nothing; reading it says more
        return None


def files_contents(value: str) -> list[str] | None:
    """The checksums of a comma list of files, each perhaps with `:function` behind it; None when one is not there.

    A reward function that is in no file is named as it is.
    """
    found = []
    for path, function in map(parted, split_paths(value)):
        if path.startswith(BROUGHT):
            found.append(path)
            continue
        if not Path(path).expanduser().is_file():
            return None
        found.append(known_checksum(Path(path).expanduser()) + function)
    return found


def parted(item: str) -> tuple[str, str]:
    """`file.py:fn` as `file.py` and `:fn`; any other name has no second part."""
    path, colon, function = item.rpartition(":")
    return (path, colon + function) if colon and path.endswith(".py") else (item, "")

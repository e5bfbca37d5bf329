"""Folders of rows: shards, splits, subfolders, and the forms in which `datasets` and the hub leave them."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easyrlhf.data.files import PACKED, SUFFIXES, other_kind, reader_of
from easyrlhf.errors import InputError

SPLIT_PREFIX = re.compile(r"(train|test|valid|validation|val|eval|dev|heldout)(?![a-z])", re.I)
SHARD = re.compile(r"(?P<name>.+?)-(?P<number>\d{3,5})-of-(?P<total>\d{3,5})(-[0-9a-f]+)?")
NO_SPLIT = ("data", "part", "shard", "rows", "chunk")  # what shards of a single data set are called
SAVED, SAVED_SPLITS = {"state.json", "dataset_info.json"}, "dataset_dict.json"  # by save_to_disk
METADATA = SAVED | {SAVED_SPLITS, "dataset_infos.json"}
CACHED = re.compile(r"cache-[0-9a-f]+(_\d+_of_\d+)?\.arrow")  # what map of `datasets` leaves beside its data
LISTED = 5  # names that a message shows


@dataclass
class Folder:
    """The data files of a folder, each with the split it belongs to, and what is to be said of the others.

    splits  file -> name of its split; None where nothing says so
    notes   what was done with files of the folder -> how many
    """

    path: Path
    splits: dict[Path, str | None] = field(default_factory=dict)
    notes: Counter = field(default_factory=Counter)


def is_in_folder(name: str) -> bool:
    """Whether a source is a folder, or one with a configuration or a split behind it."""
    return Path(name).expanduser().is_dir() or _parted(name)[0].is_dir()


def is_shard(file: Path) -> bool:
    """Whether a file's name says that it is one of several."""
    return bool(SHARD.fullmatch(_stem(file)))


def open_folder(name: str) -> Folder:
    """The files of `folder[:config][@split]` that are to be read, in order.

    Raises InputError when there is none, when a shard is missing, and when the folder holds several splits or
    configurations and none was chosen.
    """
    whole = Path(name).expanduser()
    path, config, split = (whole, None, None) if whole.is_dir() else _parted(name)
    folder = _found(path)
    _choose_config(folder, config)
    _choose_split(folder, split)
    _require_shards(folder)
    below = [file for file in folder.splits if file.parent != path]
    if len({file.parent for file in folder.splits}) > 1:
        names = _listed(sorted({str(file.parent.relative_to(path)) for file in below}))
        folder.notes[f"of the files in {path} read from its subfolders: {names}"] = len(below)
    return folder


def _parted(name: str) -> tuple[Path, str | None, str | None]:
    """`folder[:config][@split]` in its parts; a folder's own name may hold either sign."""
    head, at, split = name.rpartition("@")
    if not at or "/" in split or not split:
        head, split = name, ""
    if not Path(head).expanduser().is_dir():
        front, colon, config = head.rpartition(":")
        if colon and config and "/" not in config:
            return Path(front).expanduser(), config, split or None
    return Path(head).expanduser(), None, split or None


def _found(path: Path) -> Folder:
    """All data files below a folder; a packed file beside its unpacked form is not read twice."""
    folder, others = Folder(path), []
    for file, split in sorted(_walk(path)):
        if reader_of(file):
            folder.splits[file] = split or _split_of(file, path)
        elif other_kind(file):
            others.append(str(file.relative_to(path)))
    for file in [file for file in folder.splits if file.suffix.lower() == PACKED]:
        if file.with_suffix("") in folder.splits:
            del folder.splits[file]
    if not folder.splits:
        beside = f"; it holds {_listed(others)}" if others else ""
        raise InputError(f"{path}: the folder holds no data file ({SUFFIXES}){beside}")
    if others:
        folder.notes[f"of the files in {path} left out, being of another kind: {_listed(others)}"] = len(others)
    return folder


def _walk(path: Path) -> Iterator[tuple[Path, str]]:
    """Every file below a folder, with the split that save_to_disk gave it or ""; hidden ones are passed over."""
    seen = set()
    for root, folders, names in os.walk(path, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        if set(names) >= SAVED:
            yield from _saved(Path(root), path)
            continue
        shown = (Path(root, name) for name in names if not name.startswith((".", "__")) and name not in METADATA)
        yield from ((file, "") for file in shown if file.is_file() and not CACHED.fullmatch(file.name))


def _saved(folder: Path, top: Path) -> Iterator[tuple[Path, str]]:
    """The files of one data set as save_to_disk wrote it; what lies beside them is its cache."""
    split = folder.name if folder != top and (folder.parent / SAVED_SPLITS).is_file() else ""
    try:
        names = [item["filename"] for item in json.loads((folder / "state.json").read_text())["_data_files"]]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"{folder / 'state.json'}: damaged ({error}); write the folder again with save_to_disk"
        ) from error
    for name in names:
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: is missing, but state.json beside it names it; fetch it again")
        yield folder / name, split


def _split_of(file: Path, top: Path) -> str | None:
    """The split that a file's name tells, or that of the nearest folder above it."""
    shard = SHARD.fullmatch(_stem(file))
    if shard and shard["name"].lower() not in NO_SPLIT:
        return shard["name"]
    if found := SPLIT_PREFIX.match(file.name):
        return found[1].lower()
    above = (folder.name for folder in file.parents if folder.is_relative_to(top) and folder != top)
    return next((name for name in above if SPLIT_PREFIX.match(name)), None)


def _stem(file: Path) -> str:
    """The name without what tells the kind of file."""
    return file.name.split(".")[0]


def _choose_config(folder: Folder, config: str | None) -> None:
    """Keep the files of one configuration of those that the README.md of a hub data set declares."""
    declared = _declared(folder)
    config = _only_one(folder, declared) if config is None else config
    if config is None:
        return
    if config not in declared:
        names = _listed(sorted(declared)) or "none"
        raise InputError(f"{folder.path}:{config}: no such configuration; the folder's README.md declares {names}")
    left = [file for file in folder.splits if file not in declared[config]]
    others = {file for files in declared.values() for file in files}
    if undeclared := [str(file.relative_to(folder.path)) for file in left if file not in others]:
        says = f"of the files in {folder.path} left out, as its README.md does not name them: {_listed(undeclared)}"
        folder.notes[says] = len(undeclared)
    folder.splits = {file: split or folder.splits[file] for file, split in declared[config].items()}


def _only_one(folder: Folder, declared: dict[str, dict[Path, str | None]]) -> str | None:
    """The only configuration; None where there is none, or several of the same files. Raises InputError for others."""
    if len({tuple(files) for files in declared.values()}) > 1:
        raise InputError(
            f"{folder.path}: holds several configurations ({_listed(sorted(declared))}); choose one as "
            f"{folder.path}:{next(iter(declared))}, or name the files"
        )
    return next(iter(declared)) if len(declared) == 1 else None


def _declared(folder: Folder) -> dict[str, dict[Path, str | None]]:
    """Configuration -> its data files here with their splits, as the head of README.md has them."""
    configs = _card(folder.path).get("configs")
    found = {}
    for config in configs if isinstance(configs, list) else []:
        if isinstance(config, dict) and (files := _files_of(folder, config)):
            found[str(config.get("config_name", "default"))] = files
    return found


def _card(path: Path) -> dict[str, Any]:
    """The YAML at the head of a data set's README.md; {} when there is none that can be read."""
    import yaml

    try:
        _, head, _ = (path / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        card = yaml.safe_load(head)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return card if isinstance(card, dict) else {}


def _files_of(folder: Folder, config: dict) -> dict[Path, str | None]:
    """The data files that one configuration names: patterns, or patterns by split."""
    said = config.get("data_files", [])
    found: dict[Path, str | None] = {}
    for item in said if isinstance(said, list) else [said]:
        split, patterns = (item.get("split"), item.get("path")) if isinstance(item, dict) else (None, item)
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            if isinstance(pattern, str) and not pattern.startswith("/") and "://" not in pattern:
                for file in sorted(folder.path.glob(pattern)):
                    if file in folder.splits:
                        found.setdefault(file, split)
    return found


def _choose_split(folder: Folder, split: str | None) -> None:
    """Keep the files of one split: its name, or that of a file without its suffix."""
    splits = sorted({name for name in folder.splits.values() if name})
    if split is None:
        if len(splits) > 1:
            raise InputError(
                f"{folder.path}: holds several splits ({_listed(splits)}); choose one as "
                f"{folder.path}@{'train' if 'train' in splits else splits[0]}, or name the file"
            )
        return
    kept = {file: name for file, name in folder.splits.items() if split in (name, _stem(file))}
    if not kept:
        names = splits or sorted(set(map(_stem, folder.splits)))
        raise InputError(f"{folder.path}@{split}: no such split; the folder holds {_listed(names)}")
    folder.splits = kept


def _require_shards(folder: Folder) -> None:
    """Raise InputError when of shards that count themselves, `train-00000-of-00002.parquet`, one is missing."""
    found: dict[tuple, dict[int, Path]] = {}
    for file in folder.splits:
        if shard := SHARD.fullmatch(_stem(file)):
            group = file.parent, shard["name"], int(shard["total"]), file.name[file.name.index(".") :]
            found.setdefault(group, {})[int(shard["number"])] = file
    for (parent, name, total, suffix), files in found.items():
        first = 0 if 0 in files or total not in files else 1
        missing = [number for number in range(first, first + total) if number not in files]
        if missing:
            lost = [f"{name}-{number:05}-of-{total:05}{suffix}" for number in missing]
            raise InputError(
                f"{parent}: {len(missing)} of {total} shards of {name} are missing: {_listed(lost)}; fetch them again, "
                "or name the files that are to be read"
            )


def _listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more

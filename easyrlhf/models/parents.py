"""What a folder was made from: found where it lies now, and known by the bytes of its files. Light to import."""

import json
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from easyrlhf.data.hub import MODEL_ID
from easyrlhf.errors import InputError
from easyrlhf.files import checksum
from easyrlhf.models.adapters import CONFIG_FILE, is_adapter, read_adapter_config
from easyrlhf.run.manifest import MODEL_FILES, STAGE_FILE, read_stage

ADAPTER = "adapter"  # the folder of a LoRA run's adapter
# What transformers, peft and TRL write beside the files of MODEL_FILES, or in their place.
OTHER_FILES = (
    "pytorch_model*.bin",
    "adapter_model.bin",
    "value_head.bin",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.py",
)
WEIGHTS = (".safetensors", ".bin")
BELOW = "base/"  # before the names of the files that an adapter's base has
BASE = "base_model_name_or_path"
NEAREST = 6  # folders above one that are searched for what it was made from

Contents = dict[str, str]  # file → CRC-32


def contents_of(path: str | Path) -> Contents | None:
    """The checksums of the files that make a model what it is: those of a folder, or of a hub id that is in the cache.

    An adapter has those of its base as well, and not where that lies. None where there is nothing to be read.
    """
    folder = parent_folder(str(path))
    if folder is None:
        return None
    listed = checksums_listed(folder)
    files = {file for pattern in (*MODEL_FILES, *OTHER_FILES) for file in folder.glob(pattern)}
    found = {file.name: listed.get(file.name) or known_checksum(file) for file in sorted(files)}
    if not any(name.endswith(WEIGHTS) for name in found):
        return None  # as in a cache that has the configuration alone
    if is_adapter(folder):
        settings = {key: value for key, value in read_adapter_config(folder).items() if key != BASE}
        found[CONFIG_FILE] = f"{zlib.crc32(json.dumps(settings, sort_keys=True).encode()):08x}"
        found |= {f"{BELOW}{name}": value for name, value in (contents_of(base_of(str(folder))) or {}).items()}
    return found or None


def checksums_listed(folder: Path) -> Contents:
    """The checksums that stage.json lists, of those files that nobody has written since."""
    listed = read_stage(folder).get("files")
    if not isinstance(listed, dict):
        return {}
    then = (folder / STAGE_FILE).stat().st_mtime_ns
    files = {name: folder / name for name in listed}
    return {name: listed[name] for name, file in files.items() if file.is_file() and file.stat().st_mtime_ns <= then}


def parent_folder(path: str) -> Path | None:
    """Where a model's files lie: its folder, or the one of a hub id in the hub's cache; None where they are not."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(path, "config.json")
    except HFValidationError:  # no id
        return None
    return Path(found).parent if isinstance(found, str) else None


def known_checksum(file: Path) -> str:
    """The CRC-32 of a file, computed once for as long as it is not written."""
    now = file.stat()
    return _checksum_then(file, now.st_size, now.st_mtime_ns)


@cache
def _checksum_then(file: Path, size: int, changed: int) -> str:
    return checksum(file)


def same_contents(then: Contents | None, now: Contents | None) -> bool:
    """Whether two models are known, and the same to the byte."""
    return then is not None and now is not None and not other_files(then, now)


def other_files(then: Contents, now: Contents) -> list[str]:
    """The files in which two models differ: weights and configuration, and of what else there is what both have.

    A model in the hub's cache lacks files of its tokenizer that nobody has asked for, and the base of an adapter may
    not be there yet.
    """
    based = all(any(name.startswith(BELOW) for name in one) for one in (then, now))
    names = [name for name in sorted(then.keys() | now.keys()) if based or not name.startswith(BELOW)]
    found = [name for name in names if (name in then and name in now) or is_essential(name)]
    return [name for name in found if then.get(name) != now.get(name)]


def is_essential(name: str) -> bool:
    """Whether a model without this file would be another one."""
    return name.endswith(WEIGHTS) or name.removeprefix(BELOW) in ("config.json", CONFIG_FILE)


def changed_files(then: Contents, now: Contents) -> str:
    """Which files of two models differ, in words."""
    names = other_files(then, now)
    others = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{others} {'is' if len(names) == 1 else 'are'} not the same"


def possible_places(written: str, home: Path) -> list[Path]:
    """Where a folder may lie that a file in `home` names: as it is written, then seen from the folders above home.

    A relative path may have been seen from another working directory. Of an absolute one the last names are looked for,
    as everything may have moved together.
    """
    given, above = Path(written).expanduser(), [home.resolve(), *home.resolve().parents][:NEAREST]
    tails = [given]
    if given.is_absolute():
        tails = [Path(*given.parts[-length:]) for length in (2, 1) if len(given.parts) > length]
    return list(dict.fromkeys([given, *(folder / tail for folder in above for tail in tails)]))


def find_parent(written: str, home: Path, recorded: Contents | None) -> str:
    """The folder or hub id that a file in `home` names, where it lies now.

    recorded  its contents then. A folder that has others is another one; without a record one that is named by a
              relative path is taken where it is found, and one of an absolute path nowhere else
    Raises InputError, with every place that was looked at, when it is not there.
    """
    places = [place for place in possible_places(written, home) if is_model(place)]
    if recorded is not None:
        same = next((place for place in places if same_contents(recorded, contents_of(place))), None)
    else:
        given = Path(written).expanduser()
        places = [place for place in places if place == given] if given.is_absolute() else places
        same = next(iter(places), None)
    if same is not None:
        return written if same == Path(written) else str(same)
    if is_hub_id(written, home):
        return written
    raise InputError(not_found(written, home, recorded))


def is_model(folder: Path) -> bool:
    """Whether a folder holds a model or an adapter."""
    return any((folder / name).is_file() for name in ("config.json", CONFIG_FILE))


def is_hub_id(written: str, home: Path) -> bool:
    """Whether what is written can only be a hub id: none of the places where a folder would lie is in a folder."""
    if not MODEL_ID.fullmatch(written) or written.startswith((".", "outputs/")):
        return False
    return "/" not in written or not any(place.parent.is_dir() for place in possible_places(written, home))


def not_found(written: str, home: Path, recorded: Contents | None) -> str:
    """What to say of a folder that is in none of its places, or is another one there."""
    lines = []
    for place in possible_places(written, home):
        is_there = is_model(place)
        other = is_there and recorded is not None and changed_files(recorded, contents_of(place) or {})
        says = f"another model: {other}" if other else "a model, which may be another one" if is_there else "no model"
        lines.append(f"  {place}: {says}")
    return "\n".join([f"{written}: is not there as it was. Places looked at:", *lines])


def base_of(path: str) -> str:
    """What an adapter folder was trained on, a folder or hub id; any other path is its own base.

    Found as find does it from the adapter's own place. Raises InputError.
    """
    if not is_adapter(path):
        return path
    folder, written = Path(path).expanduser(), read_adapter_config(path)[BASE]
    if (folder / written).resolve() == folder.resolve() or Path(written).expanduser().resolve() == folder.resolve():
        raise InputError(f"{path}: {CONFIG_FILE} names the adapter itself as its base; name the model it belongs to")
    try:
        return find_parent(written, folder, recorded_base(folder))
    except InputError as error:
        raise InputError(
            f"{path}: is an adapter whose base model, {BASE} in {CONFIG_FILE}, cannot be found: {error}\n"
            f"Put the base back, or write its folder at {BASE} in {folder / CONFIG_FILE}"
        ) from error


def recorded_base(adapter: Path) -> Contents | None:
    """The contents of the model that a run of ours trained an adapter on, where the adapter lies in its folder."""
    if adapter.resolve().name != ADAPTER:
        return None
    return recorded_parent(read_stage(adapter.resolve().parent), "model")


def recorded_parent(stage: dict[str, Any], setting: str) -> Any:
    """What a stage.json keeps of the contents of what a setting names; None of older runs."""
    inputs = stage.get("inputs")
    if inputs is not None and not isinstance(inputs, dict):
        raise InputError(f"{STAGE_FILE}: key 'inputs' is not what a stage writes; restore the file")
    return (inputs or {}).get(setting)


def root_of(path: str) -> str:
    """Where the weights below an adapter lie, and below the adapter that this one was trained on, and so on."""
    seen = [path]
    while (base := base_of(seen[-1])) != seen[-1]:
        if any(os.path.realpath(base) == os.path.realpath(one) for one in seen):
            raise InputError(
                f"{path}: is an adapter of an adapter of itself ({base}); name the right base in {CONFIG_FILE}"
            )
        seen.append(base)
    return base


def tokenizer_folder(path: str) -> str:
    """Where a model's tokenizer lies: its own folder, or for an adapter without one that of its base."""
    while is_adapter(path) and not any(Path(path).expanduser().glob("tokenizer*")):
        path = base_of(path)
    return path


@contextmanager
def naming_adapter(path: str, base: str) -> Iterator[None]:
    """Let what is wrong with the base model of an adapter name the adapter as well."""
    try:
        yield
    except InputError as error:
        if base == path:
            raise
        raise InputError(
            f"{path}: is an adapter whose base model, base_model_name_or_path in {CONFIG_FILE}, cannot be used: {error}"
        ) from error

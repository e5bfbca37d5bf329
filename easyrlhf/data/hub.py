"""The Hugging Face hub, asked once: without a network the answer comes in seconds, not minutes."""

import difflib
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from easyrlhf.errors import InputError
from easyrlhf.paths import broken_link

MODEL_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
HUB_ID = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?(@(?P<split>[^@/]+))?")


def require_hub(wanted: str, remedy: str, endpoint: str | None = None) -> None:
    """Raise InputError when the hub does not answer, before a library retries for a minute.

    wanted    what is looked for, as the user wrote it
    remedy    what to do instead, the end of the message
    endpoint  a mirror of the hub; None for the hub itself
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        raise InputError(f"{wanted}: not on this machine, and HF_HUB_OFFLINE is set; {remedy}")
    endpoint = endpoint or constants.ENDPOINT
    try:
        get_session().head(endpoint, timeout=10)
    except Exception as error:  # whatever the HTTP client of this hub version raises
        raise InputError(
            f"{wanted}: no such file or folder here, and the hub ({endpoint}) cannot be reached ({error}); {remedy}"
        ) from error


def require_hub_id(path: str, file: str, remedy: str) -> None:
    """Raise InputError at once for a folder that is not there, and for a model's hub id while the hub is out of reach.

    file    of the model, by which it is known whether the hub's cache has it
    remedy  what to do instead, the end of the message
    """
    from huggingface_hub import try_to_load_from_cache

    folder, near = Path(path).expanduser(), []
    if broken := broken_link(folder):
        raise InputError(f"{path}: {broken}; {remedy}")
    if folder.parent.is_dir():
        near = difflib.get_close_matches(folder.name, [p.name for p in folder.parent.iterdir()], 1)
    hint = f"did you mean {folder.parent / near[0]}? Otherwise " if near else ""
    beside_others = folder.parent != Path() and folder.parent.is_dir()
    if not MODEL_ID.fullmatch(path) or path.startswith((".", "outputs/")) or beside_others:
        raise InputError(f"{path}: no such folder; {hint}{remedy}")
    if not isinstance(try_to_load_from_cache(path, file), str):
        require_hub(path, hint + remedy)


def require_model(path: str) -> None:
    """Raise InputError for a model's folder that is not there or holds no model, and as require_hub_id does."""
    remedy = "give a folder with a config.json, or a hub id such as Qwen/Qwen2.5-0.5B"
    folder = Path(path).expanduser()
    if not folder.exists():
        require_hub_id(path, "config.json", remedy)
    elif not (folder / "config.json").is_file():
        raise InputError(f"{path}: holds no config.json, so it is no model; {remedy}")


@cache
def hub_file(path: str, file: str) -> str | None:
    """Where a file of a model's hub id lies in the hub's cache, fetched if need be; None where it has no such file.

    Without the hub, what is in the cache counts.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    if isinstance(found := try_to_load_from_cache(path, file), str):
        return found
    try:
        require_hub(path, "")
        return hf_hub_download(path, file)
    except (InputError, EntryNotFoundError, HfHubHTTPError):
        return None


def load_hub_dataset(full_id: str, name: str, config: str | None, split: str | None, hint: str = "") -> Any:
    """A hub data set as a memory-mapped `datasets.Dataset`, from the cache where it has it.

    full_id  the id as the user wrote it, for messages; split is "train" unless given
    hint     what else may have been meant, the end of the message
    """
    import datasets
    from datasets import DownloadConfig

    remedy = f"check the spelling, or download the data set and give the path of a file{hint}"
    cached = datasets.config.HF_DATASETS_CACHE / name.replace("/", "___")
    if not os.path.isdir(cached):
        require_hub(full_id, remedy)
    try:
        return datasets.load_dataset(
            name, config, split=split or "train", download_config=DownloadConfig(max_retries=1)
        )
    except Exception as error:  # unknown name, config or split, no network, unreadable files
        raise InputError(f"{full_id}: cannot load this data set ({error}); {remedy}") from error


def fetch_hub_dataset(full_id: str, endpoint: str | None = None) -> dict[str, Any]:
    """All splits of a hub data set, or the one that is named, from files that are fetched into the hub's own cache.

    full_id   `name[:config][@split]`
    endpoint  a mirror of the hub; None for HF_ENDPOINT, or the hub
    Raises InputError when there is no such data set, or the hub cannot be reached.
    """
    import datasets
    from huggingface_hub import snapshot_download

    parts = HUB_ID.fullmatch(full_id)
    if not parts:
        raise InputError(f"{full_id}: is not the id of a hub data set, OWNER/NAME[:CONFIG][@SPLIT]")
    remedy = "check the spelling, the network and --base_url, and run the same command again: it goes on from there"
    require_hub(full_id, remedy, endpoint)
    try:
        folder = snapshot_download(parts["name"], repo_type="dataset", endpoint=endpoint)
        found = datasets.load_dataset(folder, parts["config"], split=parts["split"])
    except Exception as error:  # unknown name, config or split, a broken connection, unreadable files
        reason = " ".join(str(error).split())
        raise InputError(f"{full_id}: cannot be fetched ({reason}); {remedy}") from error
    return {parts["split"]: found} if parts["split"] else dict(found)

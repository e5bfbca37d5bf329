"""The Hugging Face hub, asked once: without a network the answer comes in seconds, not minutes."""

import os
from typing import Any

from easyrlhf.errors import InputError


def require_hub(wanted: str, remedy: str) -> None:
    """Raise InputError when the hub does not answer, before a library retries for a minute.

    wanted  what is looked for, as the user wrote it
    remedy  what to do instead, the end of the message
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        raise InputError(f"{wanted}: not on this machine, and HF_HUB_OFFLINE is set; {remedy}")
    try:
        get_session().head(constants.ENDPOINT, timeout=10)
    except Exception as error:  # whatever the HTTP client of this hub version raises
        raise InputError(
            f"{wanted}: no such file or folder here, and the hub ({constants.ENDPOINT}) cannot be "
            f"reached ({error}); {remedy}"
        ) from error


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

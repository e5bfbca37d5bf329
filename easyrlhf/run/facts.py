"""What a run finds out before it trains: libraries, tokens and rows, and whether those of its folder were the same."""

import importlib.metadata
from contextlib import suppress

from easyrlhf.config import TrainConfig
from easyrlhf.run.inputs import PARTS

TOKENS = {"tokenizer": "tokenizer", "chat_template": "chat template"}  # key of stage.json → in words


def other_tokens(known: dict, info: dict, config: TrainConfig) -> list[str]:
    """A line for what the model's tokens are made by, where it is not what it was: tokenizer, template.

    known  stage.json of the earlier run; info is that of this one
    """
    names = [words for key, words in TOKENS.items() if known.get(key, info.get(key)) != info.get(key)]
    template = f", or --chat_template {config.chat_template}" if config.chat_template else ""
    return [f"  the {' and the '.join(names)} of --model {config.model}{template}"] if names else []


def other_rows(known: dict, info: dict, config: TrainConfig, parts: tuple[str, ...] = tuple(PARTS)) -> list[str]:
    """A line for each of these parts of the data whose token rows, in order, are not what they were."""
    lines = []
    for part in parts:
        then, now = (stage.get("data", {}).get(part) for stage in (known, info))
        if (then or {}).get("sha256") == (now or {}).get("sha256"):
            continue
        setting = PARTS[part]
        if config.valid_split and part == "valid":
            setting = "train_data"
        where = f"--{setting} {config.value(setting)}"
        if then is None or now is None:
            lines.append(f"  {part} rows: {'none' if then is None else 'some'} → {'none' if now is None else where}")
        else:
            lines.append(f"  the {part} rows, {where}: {counts(then, now)}")
    return lines


def counts(then: dict, now: dict) -> str:
    """`48 rows then, 47 now`, or that as many are others."""
    before, after = (data.get("rows", data.get("used")) for data in (then, now))
    if before is None or after is None or before == after:
        return "not the same ones, or not in the same order"
    return f"{before:,} rows then, {after:,} now"


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide the numbers."""
    found = {}
    for name in ("torch", "transformers", "peft", "datasets", "tokenizers", "deepspeed"):
        with suppress(importlib.metadata.PackageNotFoundError):  # DeepSpeed is for Linux alone
            found[name] = importlib.metadata.version(name)
    return found

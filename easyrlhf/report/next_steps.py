"""The commands that a finished stage names: what its result is good for."""

import shlex
from pathlib import Path
from typing import Any

# What only the user knows.
COMPARISONS, PROMPTS, REWARD_MODEL, POLICY = "COMPARISONS.jsonl", "HELD_OUT.jsonl", "REWARD_MODEL", "SFT_MODEL"
HEADS = ("value_head.safetensors", "value_head.bin")  # a folder with one is a reward model
READ_ALIKE = ("format", "field", "transform")  # settings that say how rows are read


def next_commands(stage: str, settings: dict[str, Any]) -> list[list[str]]:
    """Commands in words, not quoted, the most likely one first; what only the user knows stands in capitals.

    settings  the resolved settings of the stage, name → value
    """
    folder, model = settings["output_dir"], settings["model"]
    talk = ["easyrlhf", "chat", folder]
    if stage == "sft":
        return [["rm_train", "--model", folder, "--train_data", COMPARISONS], talk]
    if stage == "rm":
        policy = POLICY if any(Path(model, head).exists() for head in HEADS) else model
        train = ["ppo_train", "--model", policy, "--reward_model", folder, "--train_data", settings["train_data"]]
        export = ["easyrlhf", "export", folder, "--to", "sequence_classification"]
        return [[*train, *_read_alike(settings)], [*export, "--output_dir", f"{folder}_classifier"]]
    export = ["easyrlhf", "export", folder, "--to", "full", "--precision", "bf16", "--output_dir", f"{folder}_bf16"]
    return [_compare(settings), talk, export]


def next_line(words: list[str]) -> str:
    """A command as one line that a shell reads as these words."""
    return f"next: {shlex.join(words)}"


def _compare(settings: dict[str, Any]) -> list[str]:
    """The result beside the model it started from, on the held-out rows, by what the stage was trained with."""
    words = ["easyrlhf", "compare", settings["model"], settings["output_dir"]]
    words += ["--prompts", settings["valid_data"], *_read_alike(settings)] if settings["valid_data"] else []
    words += [] if settings["valid_data"] else ["--prompts", PROMPTS]
    judges = [name for name in ("reward_model", "reward_funcs") if isinstance(settings.get(name), str)]
    for name in judges:
        words += [f"--{name}", settings[name]]
    return words if judges else [*words, "--reward_model", REWARD_MODEL]


def _read_alike(settings: dict[str, Any]) -> list[str]:
    return [word for name in READ_ALIKE if settings[name] for word in (f"--{name}", settings[name])]

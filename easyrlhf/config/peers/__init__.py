"""What the settings of other programs are here, so that a habit from there finds an answer.

They are those of TRL and transformers, ms-swift, OpenRLHF, LLaMA-Factory, axolotl, verl, DeepSpeed-Chat and EasyRLHF.
Standard library alone: the command line reads this when a name is unknown.
"""

import re
from collections.abc import Iterator
from typing import Any

from easyrlhf.config.peers.absent import ABSENT
from easyrlhf.config.peers.nested import NESTED
from easyrlhf.config.peers.renamed import SAME_THING, TWINS, WITH_A_NOTE
from easyrlhf.config.peers.translation import Translation

__all__ = ["BLOCKS", "FOREIGN", "Translation", "path_of", "translation", "twins", "unfold"]

# keys that hold nothing but settings
BLOCKS = (
    "trl",
    "vllm",
    "actor_rollout_ref",
    "critic",
    "algorithm",
    "trainer",
    "data",
    "reward",
    "training",
    "model_args",
)

FOREIGN: dict[str, Translation] = {
    **{theirs: Translation((ours,), "") for theirs, ours in SAME_THING.items()},
    **WITH_A_NOTE,
    **ABSENT,
    **NESTED,
}


def translation(path: str) -> Translation | None:
    """What a foreign setting is here: looked up whole (block.key), then by its last part; None when it is not known."""
    return FOREIGN.get(path) or FOREIGN.get(path.rpartition(".")[2])


def twins(name: str) -> list[str]:
    """What other stages of ours call the setting of this name."""
    return [other for pair in TWINS if name in pair for other in pair if other != name]


def path_of(typed: str) -> str:
    """A flag or key as the tables name it: --Trl.use-vllm and trl[0].use_vllm are trl.use_vllm."""
    return re.sub(r"\[\d+\]", "", typed.lstrip("-").replace("-", "_").lower())


def unfold(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The settings inside of a YAML value, as (block.key, value) and (list[0].key, value).

    What is explained as a whole stays whole: names of the table, entries of `datasets`.
    """
    path = path_of(key)
    whole = path in FOREIGN or path.startswith("datasets")
    if isinstance(value, dict) and value and not whole:
        for name, inner in value.items():
            yield from unfold(f"{key}.{name}", inner)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for i, item in enumerate(value):
            yield from unfold(f"{key}[{i}]", item)
    else:
        yield key, value

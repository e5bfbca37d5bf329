"""What the settings of other programs are here, so that a habit from there finds an answer.

They are those of TRL and transformers, ms-swift, OpenRLHF, LLaMA-Factory, axolotl, verl, DeepSpeed-Chat and EasyRLHF.
Standard library alone: the command line reads this when a name is unknown.
"""

from easyrlhf.config.peers.absent import ABSENT
from easyrlhf.config.peers.nested import NESTED
from easyrlhf.config.peers.renamed import SAME_THING, TWINS, WITH_A_NOTE
from easyrlhf.config.peers.translation import Translation

__all__ = ["FOREIGN", "TWINS", "Translation", "translation"]

FOREIGN: dict[str, Translation] = {
    **{theirs: Translation((ours,), "") for theirs, ours in SAME_THING.items()},
    **WITH_A_NOTE,
    **ABSENT,
    **NESTED,
}


def translation(path: str) -> Translation | None:
    """What a foreign setting is here: looked up whole (block.key), then by its last part; None when it is not known."""
    return FOREIGN.get(path) or FOREIGN.get(path.rpartition(".")[2])

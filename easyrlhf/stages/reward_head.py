"""The score head with which reward-model training starts: that of its model, where it has one, or a new one."""

from torch import nn

from easyrlhf.config import RMConfig
from easyrlhf.errors import InputError
from easyrlhf.models.load import load_config
from easyrlhf.models.parts import plain_lm
from easyrlhf.models.sequence_classifier import check_classifier, is_classifier, stored_head
from easyrlhf.models.value_head import check_head_file, head_folder, load_head
from easyrlhf.report.console import Console


def kept_head(config: RMConfig, lm: nn.Module) -> nn.Linear | None:
    """The head of a reward model to start from, on the device of its language model; None for a new one. Says which.

    Raises InputError when it cannot be read.
    """
    path, folder, console = config.model, head_folder(config.model), Console(config.stage)
    if folder is None and not is_scoring_classifier(config):
        return None
    if config.value_head == "new":
        console.note(f"--value_head new: a new score head is drawn; that of {path} is left")
        return None
    console.note(f"training goes on with the score head of {path} (--value_head new draws one)")
    return load_head(folder, lm) if folder else stored_head(path).to(plain_lm(lm).device)


def is_scoring_classifier(config: RMConfig) -> bool:
    """Whether the model to start from is a reward model as a sequence classifier."""
    return is_classifier(config.model, trust_remote_code=config.trust_remote_code)


def check_kept_head(config: RMConfig) -> None:
    """Raise InputError when a head is to be kept that does not fit its model; reads no weights."""
    if config.value_head == "new":
        return
    path, trusted = config.model, {"trust_remote_code": config.trust_remote_code}
    try:
        if folder := head_folder(path):
            check_head_file(folder, load_config(path, **trusted).get_text_config().hidden_size)
        elif is_scoring_classifier(config):
            check_classifier(path, **trusted)
    except InputError as error:
        raise InputError(f"--model {error}. Or draw a new head: --value_head new") from error

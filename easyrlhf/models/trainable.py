"""Which weights of a model are to be trained: what the start summary promises."""

from collections.abc import Iterator

from torch import nn

from easyrlhf.errors import RunError
from easyrlhf.models.value_head import ScalarModel

ADAPTER_PARTS = (".lora_", ".modules_to_save.", ".trainable_tokens_delta.")  # in the names that peft gives


def check_trainable(model: nn.Module) -> None:
    """Raise RunError when a weight that is to be trained is frozen, as libraries leave some that they have touched."""
    wanted = list(to_be_trained(model))
    frozen = [name for name, parameter in wanted if not parameter.requires_grad]
    if frozen or not wanted:
        raise RunError(
            f"{len(frozen)} of {len(wanted)} tensors that are to be trained are frozen: {', '.join(frozen[:3])}. "
            "Nothing was trained; easyrlhf export --to full makes a plain folder of a model, which can be"
        )


def to_be_trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and weights that a stage trains: all, or the adapter's; never the language-model head of a scalar model."""
    scalar = isinstance(model, ScalarModel)
    unused = {id(parameter) for parameter in model.unused()} if scalar else set()
    lora = hasattr(model.lm if scalar else model, "get_base_model")
    for name, parameter in model.named_parameters():
        beside = scalar and name.startswith("head.")
        of_adapter = any(part in f".{name.replace('/', '.')}." for part in ADAPTER_PARTS)  # as a view has them
        if id(parameter) not in unused and (beside or of_adapter or not lora):
            yield name, parameter

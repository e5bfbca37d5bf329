"""What every engine needs that spreads a model over processes: the module around it, and a copy without weights."""

import copy
from collections.abc import Callable
from typing import Any

from torch import nn


class OnePass(nn.Module):
    """The module that DeepSpeed and FSDP2 see: it calls what it is given, while the model's weights are there."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Any]) -> Any:
        """Do one forward pass."""
        return function()


def emptied(model: nn.Module) -> nn.Module:
    """A copy of a model with empty parameters. Its configurations are the model's own, so that both attend alike."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.data.new_empty(0), requires_grad=False) for p in model.parameters()}
    settings = [config for module in model.modules() if (config := getattr(module, "config", None)) is not None]
    return copy.deepcopy(model, memo | {id(config): config for config in settings})

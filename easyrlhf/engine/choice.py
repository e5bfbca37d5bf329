"""Which engine trains a model, and how a model that is only asked is spread over the processes."""

from typing import Any

import torch
from torch import nn

from easyrlhf.engine.engine import Engine, OptimiserSettings
from easyrlhf.engine.fsdp import FsdpEngine, spread_of
from easyrlhf.engine.plain import PlainEngine
from easyrlhf.engine.zero import ZeroEngine
from easyrlhf.models.trainable import check_trainable


def make_engine(
    model: nn.Module, settings: OptimiserSettings, zero: dict[str, Any] | None, dtype: torch.dtype
) -> Engine:
    """The engine of a model: FSDP2's where that has spread it, DeepSpeed's where there is a configuration for it.

    Raises RunError when weights that are to be trained are frozen.
    """
    check_trainable(model)
    if spread_of(model) is not None:
        return FsdpEngine(model, settings)
    return PlainEngine(model, settings) if zero is None else ZeroEngine(model, settings, zero, dtype)

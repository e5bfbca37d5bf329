"""Layers in 4 bits that have shapes but no numbers: they hold and make what those of bitsandbytes do."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from easyrlhf.models.four_bit import layers_to_quantise, packed_tensors


class Unpacked(torch.autograd.Function):
    """A product with a weight that is made in full for it, forward and backward, and kept in 4 bits between."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, shape: torch.Size, bias: Tensor | None) -> Tensor:
        """Rows [..., in] by a weight of this shape, [out, in].  [..., out]"""
        ctx.shape = shape
        return F.linear(rows, rows.new_empty(shape), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of the rows alone: the weight is frozen."""
        return grad @ grad.new_empty(ctx.shape), None, None


class Packed(nn.Linear):
    """A linear layer whose weight is in 4 bits; a kind of nn.Linear, so that LoRA goes around it."""

    def __init__(self, layer: nn.Linear):
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.shape = layer.in_features, layer.out_features, layer.weight.shape
        for name, (count, dtype) in packed_tensors(layer.weight.numel()).items():
            tensor = torch.empty(count, dtype=dtype, device=layer.weight.device)
            if name == "weight":
                self.weight = nn.Parameter(tensor, requires_grad=False)
            else:
                self.register_buffer(name, tensor)
        self.bias = layer.bias

    def forward(self, rows: Tensor) -> Tensor:
        """As a layer in 4 bits."""
        return Unpacked.apply(rows, self.shape, self.bias)


def pack(lm: PreTrainedModel, whole: Sequence[str]) -> None:
    """Put stand-ins in place of the layers that quantise would put in 4 bits; arguments as its own."""
    for name in layers_to_quantise(lm, whole):
        lm.set_submodule(name, Packed(lm.get_submodule(name)))

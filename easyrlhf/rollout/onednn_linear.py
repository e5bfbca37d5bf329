"""Linear layers on a CPU with their weights in blocks, the layout that oneDNN's products read fastest."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 2**16  # elements of a weight below which the call costs more than the layout saves
MOST = 2**31  # bytes that the copies of a model may take
TYPES = (torch.float32, torch.bfloat16)


@contextmanager
def blocked_weights(lm: nn.Module) -> Iterator[None]:
    """Let the large linear layers of a model on a CPU compute with blocked copies of their weights for a while.

    torch rearranges a weight for every product, which for the few rows of a decoding step takes longer than the
    product. The copies are made once, are of the weights as they are now, know no gradients, and are gone afterwards.
    Models whose copies would take more than MOST bytes compute as ever.
    """
    layers = [
        layer for layer in blockable(lm) if layer.weight.device.type == "cpu" and kernel_is_exact(layer.weight.dtype)
    ]
    try:
        for layer in layers:
            weight = reorder_weight(layer.weight.detach())
            layer.forward = partial(linear, weight=weight, bias=layer.bias)
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def blockable(lm: nn.Module) -> list[nn.Linear]:
    """The linear layers whose weights are worth a copy; none when the copies would take too much memory.

    Layers that somebody else, such as accelerate's hooks, has given a forward of their own are left alone.
    """
    plain = [layer for layer in lm.modules() if type(layer) is nn.Linear and "forward" not in vars(layer)]
    layers = [layer for layer in plain if layer.weight.dtype in TYPES and layer.weight.numel() >= SMALLEST]
    return layers if sum(layer.weight.nbytes for layer in layers) <= MOST else []


def reorder_weight(weight: Tensor) -> Tensor:
    """The weight in oneDNN's layout."""
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What F.linear says of rows [..., in], a weight that is blocked, and a bias [out].  [..., out]"""
    return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")


@cache
def kernel_is_exact(dtype: torch.dtype) -> bool:
    """Whether this torch, on this processor, has products with blocked weights of this type, and they are right.

    They are what its compiler makes of linear layers, and have no public name.
    """
    drawn = torch.Generator().manual_seed(0)
    rows, weight, bias = (torch.randn(size, generator=drawn).to(dtype) for size in ((5, 64), (96, 64), (96,)))
    exact = F.linear(rows.double(), weight.double(), bias.double())
    try:
        found = linear(rows, reorder_weight(weight), bias)
    except (AttributeError, RuntimeError):
        return False
    return bool((found - exact).norm() <= (torch.finfo(dtype).eps + 1e-5) * exact.norm())

"""Masked statistics. A mask is 1 on the entries that count, always."""

import math

import torch
from torch import Tensor

ROUNDING = 2e-6  # numbers that differ by less than this share of the largest differ by float32's rounding alone


def deviations(x: Tensor, counted: Tensor, dim: int | None = None) -> Tensor:
    """x less the mean of the entries that count; exactly 0 where those are equal but for rounding, and elsewhere.

    The mean of equal numbers is off by a rounding, which a division by their spread would blow up to full size. The
    mean is that of their distances from the least: large numbers that differ by little keep their digits.

    x        [...]
    counted  [...]  bool: which entries count
    dim      along which the mean is taken; over everything when None
    returns  [...]
    """
    dims = tuple(range(x.ndim)) if dim is None else dim
    least = x.masked_fill(~counted, math.inf).amin(dims, keepdim=True)
    most = x.masked_fill(~counted, -math.inf).amax(dims, keepdim=True)
    equal = most - least <= ROUNDING * torch.maximum(least.abs(), most.abs())
    above = (x - least).masked_fill(equal | ~counted, 0.0)
    mean = above.sum(dims, keepdim=True) / counted.sum(dims, keepdim=True).clamp(min=1)
    return (above - mean).masked_fill(~counted, 0.0)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x over the entries the mask counts; 0 when it counts none.

    x, mask  [...]  same shape
    returns  []
    """
    return (x * mask).sum() / mask.sum().clamp(min=1)


def masked_std(x: Tensor, mask: Tensor) -> Tensor:
    """Population standard deviation of x over the entries the mask counts.

    x, mask  [...]  same shape
    returns  []
    """
    return masked_mean(deviations(x, mask.bool()) ** 2, mask).sqrt()


def standardize(x: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale x to mean 0 and standard deviation 1 over the mask; 0 elsewhere, and where x does not vary.

    x, mask  [...]  same shape
    returns  [...]
    """
    return deviations(x, mask.bool()) / (masked_std(x, mask) + 1e-8)


def scale(x: Tensor, mask: Tensor) -> Tensor:
    """Scale x to standard deviation 1 over the mask, its mean along with it; as it is where it does not vary.

    Shifting rewards would change the objective: the end of a completion would be worth something by itself. 0 off the
    mask.

    x, mask  [...]  same shape
    returns  [...]
    """
    std = masked_std(x, mask)
    return x / torch.where(std > 0, std + 1e-8, 1.0) * mask

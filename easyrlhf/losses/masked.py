"""Masked statistics. A mask is 1 on the entries that count, always."""

from torch import Tensor


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
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask).sqrt()


def standardize(x: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale x to mean 0 and standard deviation 1 over the mask; 0 elsewhere.

    x, mask  [...]  same shape
    returns  [...]
    """
    return (x - masked_mean(x, mask)) / (masked_std(x, mask) + 1e-8) * mask


def scale(x: Tensor, mask: Tensor) -> Tensor:
    """Scale x to standard deviation 1 over the mask and keep its mean's sign and place; 0 elsewhere.

    The whitening of rewards in Ziegler et al. 2019: shifting rewards would change the objective.

    x, mask  [...]  same shape
    returns  [...]
    """
    return x / (masked_std(x, mask) + 1e-8) * mask

"""The loss of single answers (KTO) and the reference point that it needs."""

import torch
from torch import Tensor


def kto_loss(
    logratio: Tensor,
    desirable: Tensor,
    kl: Tensor,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> Tensor:
    """Kahneman-Tversky optimisation of single completions (Ethayarajh et al. 2024, eq. 7).

    logratio   [N]  sums over the tokens of a completion
    desirable  [N]  bool
    kl         []   the reference point z₀ of the whole optimiser batch: see kto_kl
    returns    [N]
    """
    up = desirable_weight * (beta * (kl - logratio)).sigmoid()
    down = undesirable_weight * (beta * (logratio - kl)).sigmoid()
    return torch.where(desirable, up, down)


def kto_kl(logratios: Tensor) -> Tensor:
    """KTO's reference point: estimate of KL(policy || reference), not below 0, without a gradient.

    logratios  [N]  of mismatched prompts and completions, sums over tokens, of the whole optimiser batch
    returns    []   nats
    """
    return logratios.detach().mean().clamp(min=0)

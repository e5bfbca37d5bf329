"""Group-relative policy optimisation: advantages within groups of completions, and how token losses are averaged."""

import torch
from torch import Tensor

from easyrlhf.losses.kl import kl_k3
from easyrlhf.losses.masked import deviations
from easyrlhf.losses.ppo import ppo_policy_loss

EPSILON = 1e-4  # added to standard deviations, as in TRL


def nan_std(scores: Tensor, dim: int | None = None) -> Tensor:
    """Standard deviation with Bessel's correction over the scores that are not nan.

    scores   [...]
    returns  the dimension kept with size 1, or all of them when dim is None
    """
    dims = tuple(range(scores.ndim)) if dim is None else dim
    counted = ~scores.isnan()
    squares = deviations(scores, counted, dim).square().sum(dims, keepdim=True)
    return (squares / (counted.sum(dims, keepdim=True) - 1).clamp(min=1)).sqrt()


def group_advantages(scores: Tensor, group_size: int, scale_rewards: str) -> Tensor:
    """Scores less the mean of their group, divided by a standard deviation (Shao et al. 2024, section 4.1.2).

    scores         [B]  groups stand together; nan where no reward applies, and its advantage is 0
    scale_rewards  which standard deviation: of the group, of the batch (Hu et al. 2025), or none (Liu et al. 2025)
    returns        [B]
    """
    groups = scores.view(-1, group_size)
    advantages = deviations(groups, ~groups.isnan(), 1)
    if scale_rewards != "none":
        advantages = advantages / (nan_std(groups, 1 if scale_rewards == "group" else None) + EPSILON)
    return advantages.flatten()


def gdpo_advantages(scores: Tensor, weights: Tensor, group_size: int) -> Tensor:
    """Each reward standardised within its group, weighted and summed, then standardised over the batch (GDPO).

    Group reward-decoupled normalisation (Liu et al. 2026): no reward drowns another by its scale.

    scores   [K, B]  of K reward sources; nan where a reward does not apply
    weights  [K]
    returns  [B]
    """
    groups = scores.view(len(weights), -1, group_size)
    each = deviations(groups, ~groups.isnan(), 2) / (nan_std(groups, 2) + EPSILON)
    total = (each.flatten(1) * weights[:, None]).sum(0)  # its mean over the batch is 0, as that of every group is
    return total / (nan_std(total.masked_fill(scores.isnan().all(0), torch.nan)) + EPSILON)


def rloo_advantages(scores: Tensor, group_size: int) -> Tensor:
    """Scores less the mean of the others in their group (Ahmadian et al. 2024, section 2.3).

    scores   [B]  groups stand together; nan where no reward applies, and its advantage is 0
    returns  [B]
    """
    groups = scores.view(-1, group_size)
    count = (~groups.isnan()).sum(1, keepdim=True)
    # the others' mean is further away than the group's, which the score itself is part of
    return (deviations(groups, ~groups.isnan(), 1) * count / (count - 1).clamp(min=1)).flatten()


def grpo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_limits: tuple[float, float],
    beta: float,
    use_bias_correction_kl: bool,
) -> Tensor:
    """Clipped surrogate plus beta times k3 of the KL to the reference (Shao et al. 2024, eq. 3 and 4).

    With the correction, k3 is weighted by the probability ratio, so that its gradient is that of the KL
    (DeepSeek-AI 2025, V3.2, section 3.1); without it the gradient is that of the reverse expectation.

    logprobs, old_logprobs, ref_logprobs, advantages  [...]
    clip_limits                                       how far below and above 1 a ratio pays
    returns the loss of each token                    [...]  unmasked: the caller averages
    """
    loss = ppo_policy_loss(logprobs, old_logprobs, advantages, *clip_limits)
    if not beta:
        return loss
    kl = kl_k3(logprobs, ref_logprobs)
    return loss + beta * (kl * (logprobs - old_logprobs).exp() if use_bias_correction_kl else kl)

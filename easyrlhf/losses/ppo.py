"""Proximal policy optimisation on token sequences: rewards, advantages and the two clipped losses."""

import torch
from torch import Tensor


def shape_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Score on the last token of each completion, minus kl_coef · KL on every token (Ouyang et al. 2022, eq. 2).

    scores           [B]
    kl, mask         [B, T]  the mask is 1 on sampled tokens; every row has at least one
    returns rewards  [B, T]  0 off the mask
    """
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    last = (mask * places).argmax(dim=1, keepdim=True)  # [B, 1]
    return (-kl_coef * kl * mask).scatter_add(1, last, scores.unsqueeze(1))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16): with V = 0 behind the last token,

        δ_t = r_t + γ V_{t+1} − V_t,    Â_t = δ_t + γλ Â_{t+1},    R_t = Â_t + V_t

    Time counts the tokens of the mask alone: t + 1 is the next one that was sampled, whatever an environment said in
    between. There the policy chooses nothing, so nothing is discounted, and no value stands for a state of its own.

    rewards, values, mask  [B, T]  mask is 1 on sampled tokens
    returns (advantages, returns), each [B, T], 0 off the mask, not standardised
    """
    advantages, sampled = torch.zeros_like(rewards), mask.bool()
    running = next_values = torch.zeros_like(rewards[:, 0])  # V = 0 behind the last token: padding cannot leak in
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_values - values[:, t]
        running = torch.where(sampled[:, t], delta + gamma * lam * running, running)
        next_values = torch.where(sampled[:, t], values[:, t], next_values)
        advantages[:, t] = running
    return advantages * mask, (advantages + values) * mask


def ppo_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    cliprange: float,
    cliprange_high: float,
) -> Tensor:
    """Clipped surrogate objective, negated (Schulman et al. 2017, eq. 7).

    logprobs, old_logprobs, advantages  [...]
    cliprange, cliprange_high           how far below and above 1 a ratio pays; apart in Yu et al. 2025, eq. 10
    returns the loss of each token      [...]  unmasked: the caller averages
    """
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - cliprange, 1 + cliprange_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def ppo_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, cliprange_value: float) -> Tensor:
    """Squared error, the worse of clipped and unclipped (Ziegler et al. 2019's code; Huang et al. 2024, detail 9).

    values, old_values, returns     [...]
    returns the loss of each token  [...]  with the factor ½; unmasked: the caller averages
    """
    clipped = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """1 − Var(returns − values) / Var(returns): 1 is perfect, 0 no better than a constant, negative is worse.

    values, returns  [n]  the tokens that count
    returns          []   nan when the returns do not vary
    """
    return 1 - (returns - values).var(correction=0) / returns.var(correction=0)


def token_weights(mask: Tensor, loss_type: str, rollout_tokens: float, limit: int) -> Tensor:
    """What each token's loss counts in the loss of an optimiser step; the loss is the weighted sum.

    grpo     each completion's mean, then their mean (Shao et al. 2024)
    bnpo     mean over the tokens of the step
    dapo     mean over the tokens of the rollout: rollout_tokens is its share for one step (Yu et al. 2025)
    dr_grpo  sum over completions · limit, blind to length (Liu et al. 2025)

    mask     [B, T]  1 on tokens that count
    returns  [B, T]
    """
    if loss_type == "grpo":
        return mask / mask.sum(1, keepdim=True).clamp(min=1) / len(mask)
    count = {"bnpo": mask.sum().item(), "dapo": rollout_tokens, "dr_grpo": len(mask) * limit}[loss_type]
    return mask / max(count, 1)

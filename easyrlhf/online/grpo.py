"""GRPO and its kin, which compare completions of one prompt in place of asking a value model.

With scores s_1 … s_G of the G completions of a prompt, and KL_i, the log-ratio of completion i to the reference:

    grpo         Â_i = (s_i − mean s) / std s; β · KL per token in the loss      Shao et al. 2024, eq. 3
    rloo         Â_i = s_i − β KL_i − mean of the others' (s_j − β KL_j)         Ahmadian et al. 2024, section 4
    reinforce++  Â_t = Σ_{u ≥ t} r_u with r of PPO, standardised over the batch  Hu 2025, section 3

The surrogate is PPO's, by token (grpo, reinforce++) or by completion (rloo). The arithmetic is in losses/grpo.py.
"""

from dataclasses import replace

import torch
from torch import Tensor

from easyrlhf.config import GRPOConfig
from easyrlhf.losses.grpo import gdpo_advantages, group_advantages, grpo_policy_loss, rloo_advantages
from easyrlhf.losses.masked import standardize
from easyrlhf.losses.ppo import gae, ppo_policy_loss, token_weights
from easyrlhf.online.method import Method, distance, shaped
from easyrlhf.online.ppo import clipped_loss, each_token
from easyrlhf.online.rollout import Rollout


def estimate_grpo(rollout: Rollout, config: GRPOConfig, kl_coef: float) -> Rollout:
    """GRPO's: scores compared within their group; the KL is left to the loss."""
    if config.multi_objective_aggregation == "sum_then_normalize":
        advantages = group_advantages(rollout.scores, config.num_generations, config.scale_rewards)
    else:
        sources, own = objectives(rollout.source_scores, config)
        # the penalty is a weight: as a score it would be standardised, and its size lost
        cut_off = -(~rollout.finished).float()
        scores = torch.stack([*sources, cut_off]).masked_fill(~rollout.scored, torch.nan)
        weights = torch.tensor([*own, config.missing_eos_penalty], device=scores.device)
        advantages = gdpo_advantages(scores, weights, config.num_generations)
    return with_advantages(rollout, advantages, config)


def objectives(source_scores: dict[str, Tensor], config: GRPOConfig) -> tuple[list[Tensor], list[float]]:
    """What GDPO standardises apart, each [B], and how much each counts: sources, or the parts that one is made of."""
    names = [name for name in source_scores if "/" not in name]
    weights = dict(zip(names, [*config.reward_weight_values, 1.0], strict=False))  # an environment's is 1, the last
    found = {}
    for name, scores in source_scores.items():
        source, _, part = name.partition("/")
        found[name] = scores, weights[source]
        if part:  # a completion whose reward has parts is its parts
            whole, weight = found[source]
            found[source] = whole.masked_fill(~scores.isnan(), torch.nan), weight
    return [scores for scores, _ in found.values()], [weight for _, weight in found.values()]


def estimate_rloo(rollout: Rollout, config: GRPOConfig, kl_coef: float) -> Rollout:
    """RLOO's: the KL of the whole completion in its score, which is compared with the others of its group."""
    # The KL of the whole completion, since what is compared are whole completions.
    scores = rollout.scores if rollout.log_ratios is None else rollout.scores - kl_coef * rollout.log_ratios
    return with_advantages(rollout, rloo_advantages(scores, config.num_generations), config)


def estimate_reinforce(rollout: Rollout, config: GRPOConfig, kl_coef: float) -> Rollout:
    """REINFORCE++'s: rewards still to come, KL in them, standardised over the batch (Hu 2025, section 3)."""
    mask = rollout.actions * rollout.scored[:, None]
    kl, nothing = distance(rollout), torch.zeros_like(mask)
    to_come, _ = gae(shaped(rollout, kl, kl_coef), nothing, mask, gamma=1.0, lam=1.0)
    return with_advantages(rollout, standardize(to_come, mask), config)


def with_advantages(rollout: Rollout, advantages: Tensor, config: GRPOConfig) -> Rollout:
    """The rollout with these advantages ([B] or [B, T]), its KL, and the mask of the tokens that are learned from."""
    mask = rollout.actions * ~rollout.dropped[:, None]
    kl = distance(rollout)
    # A cut-off answer says little of what it would have become (Yu et al. 2025, section 3.4).
    learned = mask * rollout.finished[:, None] if config.mask_truncated_completions else mask
    advantages = advantages if advantages.ndim == 2 else advantages[:, None]
    return replace(rollout, kl=kl, advantages=advantages * learned, loss_mask=learned)


def grpo_loss(part: Rollout, logprobs: Tensor, config: GRPOConfig) -> Tensor:
    """The clipped surrogate of each token, with the KL to the reference when beta asks for it.  [n]"""
    old_logprobs, advantages = part.flat("old_logprobs", "advantages")
    return grpo_policy_loss(
        logprobs,
        old_logprobs,
        part.flat("ref_logprobs")[0] if config.beta else old_logprobs,  # without a price it is not looked at
        advantages,
        clip_limits=config.clip_limits,
        beta=config.beta,
        use_bias_correction_kl=config.use_bias_correction_kl,
    )


def rloo_loss(part: Rollout, logprobs: Tensor, config: GRPOConfig) -> Tensor:
    """The clipped surrogate of whole completions, told to each of their tokens.  [n]"""
    # One ratio a completion, so its clip holds or frees all of its tokens together.
    rows = part.actions.nonzero()[:, 0]  # [n] the completion each token belongs to
    whole = logprobs.new_zeros(len(part)).index_add(0, rows, logprobs)
    old = (part.old_logprobs * part.actions).sum(1)
    return ppo_policy_loss(whole, old, part.advantages[:, 0], *config.clip_limits)[rows]


def each_completion(batch: Rollout, rollout_tokens: float, config: GRPOConfig) -> Tensor:
    """All completions alike.  [B, T]"""
    return token_weights(batch.learned, "grpo", rollout_tokens, config.completion_limit)


def as_loss_type(batch: Rollout, rollout_tokens: float, config: GRPOConfig) -> Tensor:
    """As loss_type says.  [B, T]"""
    return token_weights(batch.learned, config.loss_type, rollout_tokens, config.completion_limit)


GROUP_METHODS = {
    "grpo": Method(estimate_grpo, grpo_loss, as_loss_type, kl_in_loss=lambda config: config.beta > 0),
    "rloo": Method(estimate_rloo, rloo_loss, each_completion),
    "reinforce++": Method(estimate_reinforce, clipped_loss, each_token, in_groups=False),
}

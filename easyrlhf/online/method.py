"""What tells the online methods apart: how they estimate advantages, and which loss their policy descends."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from easyrlhf.config import GRPOConfig, OnlineConfig, PPOConfig
from easyrlhf.losses.grpo import (
    gdpo_advantages,
    group_advantages,
    grpo_policy_loss,
    rloo_advantages,
    token_weights,
)
from easyrlhf.losses.kl import KL_ESTIMATORS, kl_k1
from easyrlhf.losses.masked import scale, standardize
from easyrlhf.losses.ppo import gae, ppo_policy_loss, shape_rewards
from easyrlhf.online.rollout import Rollout


@dataclass(frozen=True)
class Method:
    """The functions an online method plugs into the loop.

    estimate  (rollout, settings, kl_coef) → rollout with kl, advantages, and what else its losses need
    loss      (part of a rollout, log-probabilities of its tokens [n], settings) → the loss of each token [n]
    weigh     (rows of one optimiser step, tokens of the rollout per step, settings) → weight of each token [B, T]
    in_groups whether a completion is compared with the others of its prompt, and with nothing else
    """

    estimate: Callable[[Rollout, OnlineConfig, float], Rollout]
    loss: Callable[[Rollout, Tensor, OnlineConfig], Tensor]
    weigh: Callable[[Rollout, float, OnlineConfig], Tensor]
    in_groups: bool = True

    def kl_in_loss(self, config: OnlineConfig) -> bool:
        """Whether the loss has a gradient where every advantage is 0."""
        return self.loss is grpo_loss and config.beta > 0

    def groups_that_teach(self, rollout: Rollout, config: GRPOConfig, kl_coef: float) -> Tensor:
        """Whether any completion of each group gets an advantage.  [B / num_generations]

        It is the estimate that says so: all the method compares counts, such as each reward by itself in GDPO and the
        KL in the scores of RLOO. GRPO's KL stands beside the advantages, in the loss of any group, and says nothing of
        whether rewards tell its completions apart, which is what is sampled for. Where completions are compared with
        the whole batch, all groups teach or none.
        """
        teaches = self.estimate(rollout, config, kl_coef).has_advantage.view(-1, config.num_generations).any(1)
        return teaches if self.in_groups else teaches.any().expand(len(teaches))


def method_of(config: OnlineConfig) -> Method:
    """The method that the settings ask for."""
    return PPO if isinstance(config, PPOConfig) else GROUP_METHODS[config.advantage]


# --- estimate


def estimate_ppo(rollout: Rollout, config: PPOConfig, kl_coef: float) -> Rollout:
    """PPO's: KL in the reward, generalised advantages, standardised over the whole rollout.

    The value model learns from returns that were neither shifted nor scaled. Neither model learns from a completion
    without a score.
    """
    mask = rollout.completion_mask * rollout.scored[:, None]
    kl = distance(rollout, KL_ESTIMATORS[config.kl_estimator])
    rewards = shaped(rollout, kl, kl_coef)
    if config.whiten_rewards:
        rewards = scale(rewards, mask)
    advantages, returns = gae(rewards, rollout.values, mask, config.gamma, config.lam)
    advantages = standardize(advantages, mask)
    return replace(rollout, kl=kl, rewards=rewards, advantages=advantages, returns=returns, loss_mask=mask)


def shaped(rollout: Rollout, kl: Tensor | None, kl_coef: float) -> Tensor:
    """The reward of each token, with the price of its KL where that is known; 0 in completions without a score."""
    mask = rollout.completion_mask
    rewards = shape_rewards(rollout.scores.nan_to_num(), torch.zeros_like(mask) if kl is None else kl, mask, kl_coef)
    return rewards * rollout.scored[:, None]


def estimate_grpo(rollout: Rollout, config: GRPOConfig, kl_coef: float) -> Rollout:
    """GRPO's: scores compared within their group; the KL is left to the loss."""
    if config.multi_objective_aggregation == "sum_then_normalize":
        advantages = group_advantages(rollout.scores, config.num_generations, config.scale_rewards)
    else:
        # the penalty is a weight: as a score it would be standardised, and its size lost
        cut_off = -(~rollout.finished).float().masked_fill(~rollout.scored, torch.nan)
        scores = torch.stack([*rollout.source_scores.values(), cut_off])
        weights = torch.tensor([*config.reward_weight_values, config.missing_eos_penalty], device=scores.device)
        advantages = gdpo_advantages(scores, weights, config.num_generations)
    return with_advantages(rollout, advantages, config)


def estimate_rloo(rollout: Rollout, config: GRPOConfig, kl_coef: float) -> Rollout:
    """RLOO's: the KL of the whole completion in its score, which is compared with the others of its group."""
    scores = rollout.scores if rollout.log_ratios is None else rollout.scores - kl_coef * rollout.log_ratios
    return with_advantages(rollout, rloo_advantages(scores, config.num_generations), config)


def estimate_reinforce(rollout: Rollout, config: GRPOConfig, kl_coef: float) -> Rollout:
    """REINFORCE++'s: rewards still to come, KL in them, standardised over the batch (Hu 2025, section 3)."""
    mask = rollout.completion_mask * rollout.scored[:, None]
    kl, nothing = distance(rollout), torch.zeros_like(mask)
    to_come, _ = gae(shaped(rollout, kl, kl_coef), nothing, mask, gamma=1.0, lam=1.0)
    return with_advantages(rollout, standardize(to_come, mask), config)


def with_advantages(rollout: Rollout, advantages: Tensor, config: GRPOConfig) -> Rollout:
    """The rollout with these advantages ([B] or [B, T]), its KL, and the mask of the tokens that are learned from."""
    mask = rollout.completion_mask
    kl = distance(rollout)
    learned = mask * rollout.finished[:, None] if config.mask_truncated_completions else mask
    advantages = advantages if advantages.ndim == 2 else advantages[:, None]
    return replace(rollout, kl=kl, advantages=advantages * learned, loss_mask=learned)


def distance(rollout: Rollout, estimator: Callable[[Tensor, Tensor], Tensor] = kl_k1) -> Tensor | None:
    """The KL to the reference at each token, 0 on padding; None where no reference was asked.  [B, T]"""
    if rollout.ref_logprobs is None:
        return None
    return estimator(rollout.old_logprobs, rollout.ref_logprobs) * rollout.completion_mask


# --- loss


def clipped_loss(part: Rollout, logprobs: Tensor, config: OnlineConfig) -> Tensor:
    """The clipped surrogate of each token.  [n]"""
    return ppo_policy_loss(logprobs, *part.flat("old_logprobs", "advantages"), *config.clip_limits)


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
    rows = part.completion_mask.nonzero()[:, 0]  # [n] the completion each token belongs to
    whole = logprobs.new_zeros(len(part)).index_add(0, rows, logprobs)
    old = (part.old_logprobs * part.completion_mask).sum(1)
    return ppo_policy_loss(whole, old, part.advantages[:, 0], *config.clip_limits)[rows]


# --- weigh


def each_token(batch: Rollout, rollout_tokens: float, config: OnlineConfig) -> Tensor:
    """All tokens of the step alike.  [B, T]"""
    return token_weights(batch.learned, "bnpo", rollout_tokens, config.completion_limit)


def each_completion(batch: Rollout, rollout_tokens: float, config: GRPOConfig) -> Tensor:
    """All completions alike.  [B, T]"""
    return token_weights(batch.learned, "grpo", rollout_tokens, config.completion_limit)


def as_loss_type(batch: Rollout, rollout_tokens: float, config: GRPOConfig) -> Tensor:
    """As loss_type says.  [B, T]"""
    return token_weights(batch.learned, config.loss_type, rollout_tokens, config.completion_limit)


PPO = Method(estimate_ppo, clipped_loss, each_token, in_groups=False)
GROUP_METHODS = {
    "grpo": Method(estimate_grpo, grpo_loss, as_loss_type),
    "rloo": Method(estimate_rloo, rloo_loss, each_completion),
    "reinforce++": Method(estimate_reinforce, clipped_loss, each_token, in_groups=False),
}

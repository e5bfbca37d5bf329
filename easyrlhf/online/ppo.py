"""PPO: from a rollout to what its two losses need (Schulman et al. 2017; on language, Ouyang et al. 2022, section 3.5).

A step samples completions y of prompts x from the policy as it is, π_old, and reads from every token t

    r_t = −β · KL_t(π_old, reference), and at the last token + score(x, y)       shape_rewards
    δ_t = r_t + γ · V(t + 1) − V(t)
    Â_t = δ_t + γλ · Â_{t+1},   R_t = Â_t + V(t)                                 gae
    Â, standardised over all tokens of the rollout                               standardize

then descends, in `num_ppo_epochs` passes over minibatches (update.py), with ρ_t = π(t) / π_old(t),

    policy  max(−Â_t · ρ_t, −Â_t · clip(ρ_t, 1 − ε, 1 + ε))                      ppo_policy_loss
    value   ½ max((V(t) − R_t)², (V_old(t) + clip(V(t) − V_old(t), ±ε_v) − R_t)²)   ppo_value_loss

Departures from the textbook: KL is paid by token, completions without a score teach nothing, and the mean is over the
tokens of a minibatch, those of all its completions alike. The functions named on the right are in easyrlhf/losses.
"""

from dataclasses import replace

from torch import Tensor

from easyrlhf.config import OnlineConfig, PPOConfig
from easyrlhf.losses.kl import KL_ESTIMATORS
from easyrlhf.losses.masked import scale, standardize
from easyrlhf.losses.ppo import gae, ppo_policy_loss, token_weights
from easyrlhf.online.method import Method, distance, shaped
from easyrlhf.online.rollout import Rollout


def estimate_ppo(rollout: Rollout, config: PPOConfig, kl_coef: float) -> Rollout:
    """PPO's: KL in the reward, generalised advantages, standardised over the whole rollout.

    The value model learns from returns that were neither shifted nor scaled. Neither model learns from a completion
    without a score.
    """
    # A completion that no reward applies to has no return: with one of 0 it would be taken for an average answer.
    mask = rollout.actions * rollout.scored[:, None]
    kl = distance(rollout, KL_ESTIMATORS[config.kl_estimator])
    rewards = shaped(rollout, kl, kl_coef)
    if config.whiten_rewards:
        rewards = scale(rewards, mask)
    # Returns come before standardising: the value model predicts rewards, not their rank in this rollout.
    advantages, returns = gae(rewards, rollout.values, mask, config.gamma, config.lam)
    advantages = standardize(advantages, mask)
    return replace(rollout, kl=kl, rewards=rewards, advantages=advantages, returns=returns, loss_mask=mask)


def clipped_loss(part: Rollout, logprobs: Tensor, config: OnlineConfig) -> Tensor:
    """The clipped surrogate of each token.  [n]"""
    return ppo_policy_loss(logprobs, *part.flat("old_logprobs", "advantages"), *config.clip_limits)


def each_token(batch: Rollout, rollout_tokens: float, config: OnlineConfig) -> Tensor:
    """All tokens of the step alike.  [B, T]"""
    return token_weights(batch.learned, "bnpo", rollout_tokens, config.completion_limit)


PPO = Method(estimate_ppo, clipped_loss, each_token, in_groups=False)

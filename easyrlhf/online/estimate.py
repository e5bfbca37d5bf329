"""Estimate: from scores and KL to rewards, advantages and returns."""

from dataclasses import replace

from easyrlhf.config import PPOConfig
from easyrlhf.losses.kl import KL_ESTIMATORS
from easyrlhf.losses.masked import scale, standardize
from easyrlhf.losses.ppo import gae, shape_rewards
from easyrlhf.online.rollout import Rollout


def estimate_ppo(rollout: Rollout, config: PPOConfig, kl_coef: float) -> Rollout:
    """PPO's: KL in the reward, generalised advantages, standardised over the whole rollout.

    The value model learns from returns that were neither shifted nor scaled.
    """
    mask = rollout.completion_mask
    kl = KL_ESTIMATORS[config.kl_estimator](rollout.old_logprobs, rollout.ref_logprobs) * mask
    rewards = shape_rewards(rollout.scores, kl, mask, kl_coef)
    if config.whiten_rewards:
        rewards = scale(rewards, mask)
    advantages, returns = gae(rewards, rollout.values, mask, config.gamma, config.lam)
    return replace(rollout, kl=kl, rewards=rewards, advantages=standardize(advantages, mask), returns=returns)

"""What tells the online methods apart: how they estimate advantages, and which loss their policy descends."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from easyrlhf.config import GRPOConfig, OnlineConfig
from easyrlhf.losses.kl import kl_k1
from easyrlhf.losses.ppo import shape_rewards
from easyrlhf.online.rollout import Rollout


@dataclass(frozen=True)
class Method:
    """The functions an online method plugs into the loop.

    estimate  (rollout, settings, kl_coef) → rollout with kl, advantages, and what else its losses need
    loss      (part of a rollout, log-probabilities of its tokens [n], settings) → the loss of each token [n]
    weigh     (rows of one optimiser step, tokens of the rollout per step, settings) → weight of each token [B, T]
    in_groups whether a completion is compared with the others of its prompt, and with nothing else
    kl_in_loss  (settings) → whether the loss has a gradient where every advantage is 0
    metrics   (estimated rollout) → numbers of its own
    """

    estimate: Callable[[Rollout, OnlineConfig, float], Rollout]
    loss: Callable[[Rollout, Tensor, OnlineConfig], Tensor]
    weigh: Callable[[Rollout, float, OnlineConfig], Tensor]
    in_groups: bool = True
    kl_in_loss: Callable[[OnlineConfig], bool] = lambda config: False
    metrics: Callable[[Rollout], dict[str, float]] = lambda rollout: {}

    def groups_that_teach(self, rollout: Rollout, config: GRPOConfig, kl_coef: float) -> Tensor:
        """Whether any completion of each group gets an advantage.  [B / num_generations]

        It is the estimate that says so: all the method compares counts, such as each reward by itself in GDPO and the
        KL in the scores of RLOO. GRPO's KL stands beside the advantages, in the loss of any group, and says nothing of
        whether rewards tell its completions apart, which is what is sampled for. Where completions are compared with
        the whole batch, all groups teach or none.
        """
        teaches = self.estimate(rollout, config, kl_coef).has_advantage.view(-1, config.num_generations).any(1)
        return teaches if self.in_groups else teaches.any().expand(len(teaches))


def shaped(rollout: Rollout, kl: Tensor | None, kl_coef: float) -> Tensor:
    """The reward of each token, with the price of its KL where that is known; 0 in completions without a score.

    What an environment rewarded before the end stands where it was earned, and the rest of the score at the last token.
    """
    mask = rollout.actions
    early = torch.zeros_like(mask) if rollout.turn_rewards is None else rollout.turn_rewards
    kl = torch.zeros_like(mask) if kl is None else kl
    rewards = early + shape_rewards(rollout.scores.nan_to_num() - early.sum(1), kl, mask, kl_coef)
    return rewards * rollout.scored[:, None]


def distance(rollout: Rollout, estimator: Callable[[Tensor, Tensor], Tensor] = kl_k1) -> Tensor | None:
    """The KL to the reference at each token, 0 on padding; None where no reference was asked.  [B, T]"""
    if rollout.ref_logprobs is None:
        return None
    return estimator(rollout.old_logprobs, rollout.ref_logprobs) * rollout.actions

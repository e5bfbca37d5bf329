"""Update: epochs of minibatches over one rollout."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from easyrlhf.config import OnlineConfig, PPOConfig
from easyrlhf.engine.engine import Engine, Work
from easyrlhf.engine.micro_batches import Passes
from easyrlhf.losses.ppo import ppo_value_loss
from easyrlhf.models.logprobs import token_logprobs
from easyrlhf.online.method import Method
from easyrlhf.online.rollout import Rollout

# metric → what its sum is divided by
DENOMINATORS = {
    "policy/approxkl_avg": "policy_tokens",
    "policy/clipfrac_avg": "policy_tokens",
    "val/ratio": "policy_tokens",
    "policy/off_policy_masked": "policy_tokens",
    "val/clipfrac_avg": "value_tokens",
    "loss/policy_avg": "policy_steps",
    "loss/ptx_avg": "ptx_steps",
    "policy/grad_norm": "policy_steps",
    "policy/learning_rate": "policy_steps",
    "loss/value_avg": "value_tokens",
    "value/grad_norm": "value_steps",
    "value/learning_rate": "value_steps",
}


@dataclass(frozen=True)
class Update:
    """Epochs of minibatches over a rollout: every learner takes one optimiser step on each minibatch."""

    learners: list["PolicyLearner | ValueLearner"]
    config: OnlineConfig

    def __call__(self, rollout: Rollout, step: int) -> dict[str, float]:
        """Train on the rollout of this step; returns metrics averaged over all of it."""
        config, sums = self.config, Counter()
        # Of the rollout, not of each minibatch: where the mean is over tokens (dapo), every token then weighs alike.
        tokens_per_step = rollout.learned.sum().item() / config.num_mini_batches
        for epoch in range(config.epochs_per_rollout):
            for number, rows in enumerate(mini_batches(config, len(rollout), step, epoch)):
                batch = rollout.take(rows)
                optimiser_step = (step * config.epochs_per_rollout + epoch) * config.num_mini_batches + number
                for learner in self.learners:
                    sums.update(learner(batch, tokens_per_step, optimiser_step))
        return averages(sums)


def mini_batches(config: OnlineConfig, count: int, step: int, epoch: int) -> list[list[int]]:
    """Rows of each minibatch, of `count` in all, in an order that every epoch of every step has for itself.

    Completions of a prompt stay together, so that it is computed once for them, where the prompts can be split evenly.
    """
    size = config.num_generations
    if count // size % config.num_mini_batches:
        size = 1
    # Drawn from the step's own number, so that a resumed run goes through the same minibatches.
    order = np.random.default_rng((config.seed, step, epoch)).permutation(count // size)
    rows = order[:, None] * size + np.arange(size)
    return [part.flatten().tolist() for part in np.split(rows, config.num_mini_batches)]


@dataclass(frozen=True)
class PolicyLearner:
    """One optimiser step of the policy on a minibatch.

    first_step  the optimiser step with which its training begins: before, the value model learns alone
    ptx         optimiser step → the work on demonstrations that is mixed into it; None when there is none
    """

    engine: Engine
    method: Method
    config: OnlineConfig
    passes: Passes
    first_step: int = 0
    ptx: Callable[[int], list[Work]] | None = None

    def __call__(self, batch: Rollout, tokens_per_step: float, optimiser_step: int) -> dict[str, float]:
        """Step, unless nothing can be learned from this batch; returns sums of metrics."""
        if optimiser_step < self.first_step:
            return {}
        config = self.config
        # 1. What each token's loss counts. Weights, and no mean inside of the loss: so micro-batches add up.
        weights = self.method.weigh(batch, tokens_per_step, config) * batch.importance_weights(config)
        # 2. No signal, no step: Adam would move weights by its momentum alone, or by rounding.
        if self.learns_nothing(batch):
            self.engine.skip()
            return {"policy/skipped_steps": 1}

        def surrogate(group: list[int]) -> tuple[Tensor, dict[str, Tensor | float]]:
            part = batch.take(group)
            # At the temperature of sampling: the ratio is of the distributions that completions are drawn from.
            every = token_logprobs(self.engine.model, part.groups(), self.passes.share, config.temperature)
            logprobs, counted = part.sampled(every), weights[group][part.actions.bool()]
            sums = policy_metrics(logprobs.detach() - part.flat("old_logprobs")[0], *config.clip_limits)
            # Tokens that the policy has left behind give no advantage any more; the metrics above still see them.
            if config.off_policy_mask_threshold is not None:
                part, left_out = part.near_policy(logprobs.detach(), config.off_policy_mask_threshold)
                sums["policy/off_policy_masked"] = left_out
            loss = (self.method.loss(part, logprobs, config) * counted).sum()
            return loss, sums | {"loss/policy_avg": loss.detach()}

        # 3. One optimiser step on all micro-batches, those that are mixed in among them. Their losses are weighted
        # already, so the engine divides by 1.
        work = [(partial(surrogate, group), weight) for group, weight in batch.micro_batches(self.passes)]
        if self.ptx is not None:
            work += self.ptx(optimiser_step)
        done, sums = self.engine.step(work, 1)
        return {**sums, **prefixed("policy", done), "policy_steps": 1, "ptx_steps": int(self.ptx is not None)}

    def learns_nothing(self, batch: Rollout) -> bool:
        """Whether the gradient is zero by construction: no advantage, no KL in the loss, nothing mixed in."""
        return self.ptx is None and not self.method.kl_in_loss(self.config) and not batch.has_advantage.any()


@dataclass(frozen=True)
class ValueLearner:
    """One optimiser step of the value model on a minibatch."""

    engine: Engine
    config: PPOConfig
    passes: Passes

    def __call__(self, batch: Rollout, tokens_per_step: float, optimiser_step: int) -> dict[str, float]:
        """Step; returns sums of metrics."""
        config = self.config

        def loss_sum(group: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
            part = batch.take(group)
            values = part.sampled(self.engine.model.completion_values(part.groups(), self.passes.share))
            old_values, returns = part.flat("values", "returns")
            # How often the value clip binds: a value model that is clipped often learns slower than its rate says.
            clipped = (values.detach() - old_values).abs() > config.cliprange_value
            (learned,) = part.flat("learned")
            loss = (ppo_value_loss(values, old_values, returns, config.cliprange_value) * learned).sum()
            sums = {
                "val/clipfrac_avg": (clipped * learned).sum(),
                "value_tokens": learned.sum(),
                "loss/value_avg": loss.detach(),
            }
            return config.vf_coef * loss, sums

        # A batch of answers without a score has no returns; an empty step would still move weights by Adam's momentum.
        if not batch.learned.any():
            self.engine.skip()
            return {}
        work = [(partial(loss_sum, group), weight) for group, weight in batch.micro_batches(self.passes)]
        done, sums = self.engine.step(work, batch.learned.sum().item())
        return {**sums, **prefixed("value", done), "value_steps": 1}


def policy_metrics(log_ratio: Tensor, low: float, high: float) -> dict[str, Tensor | float]:
    """Sums over tokens of what PPO watches; log_ratio [n] is the policy's over the one that sampled."""
    ratio = log_ratio.exp()
    return {
        "policy/approxkl_avg": (0.5 * log_ratio**2).sum(),
        "policy/clipfrac_avg": ((ratio < 1 - low) | (ratio > 1 + high)).sum(),
        "val/ratio": ratio.sum(),
        "ratio_squared": (ratio**2).sum(),
        "policy_tokens": len(ratio),
    }


def prefixed(model: str, done: dict[str, float]) -> dict[str, float]:
    """What the engine says of one step, under the model's name; its loss is summed token by token instead."""
    return {f"{model}/{name}": done[name] for name in ("grad_norm", "learning_rate")}


def averages(sums: Counter) -> dict[str, float]:
    """Means over tokens or optimiser steps of everything the minibatches summed up."""
    metrics = {}
    # What no minibatch measured is left out: a mean of nothing is not 0.
    for name, per in DENOMINATORS.items():
        if sums[per] and name in sums:
            metrics[name] = sums[name] / sums[per]
    if "policy/skipped_steps" in sums:
        metrics["policy/skipped_steps"] = sums["policy/skipped_steps"]
    if sums["policy_tokens"]:
        metrics["val/ratio_var"] = sums["ratio_squared"] / sums["policy_tokens"] - metrics["val/ratio"] ** 2
    return metrics

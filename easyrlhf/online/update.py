"""Update: epochs of minibatches over one rollout."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from easyrlhf.config import PPOConfig
from easyrlhf.data.batches import join, micro_batches
from easyrlhf.engine.engine import Engine
from easyrlhf.losses.ppo import ppo_policy_loss, ppo_value_loss
from easyrlhf.models.logprobs import token_logprobs
from easyrlhf.online.rollout import Rollout

Closure = Callable[[], Tensor]

# metric → what its sum is divided by
DENOMINATORS = {
    "policy/approxkl_avg": "policy_tokens",
    "policy/clipfrac_avg": "policy_tokens",
    "val/ratio": "policy_tokens",
    "val/clipfrac_avg": "value_tokens",
    "loss/policy_avg": "policy_tokens",
    "loss/ptx_avg": "ptx_steps",
    "policy/grad_norm": "policy_steps",
    "policy/learning_rate": "policy_steps",
    "loss/value_avg": "value_tokens",
    "value/grad_norm": "value_steps",
    "value/learning_rate": "value_steps",
}


@dataclass(frozen=True)
class Update:
    """How the models are updated from a rollout.

    ptx  optimiser step → SFT micro-batches to mix into it, each giving its summed loss per unit of ptx_coef;
         None when ptx_coef is 0
    """

    policy: Engine
    value: Engine
    config: PPOConfig
    pad_id: int
    micro_batch_tokens: int
    ptx: Callable[[int], list[Closure]] | None = None

    def __call__(self, rollout: Rollout, step: int) -> dict[str, float]:
        """Train policy and value model on the rollout of this step; returns metrics averaged over all of it."""
        config, sums = self.config, Counter()
        train_policy = step >= config.value_warmup_steps
        for epoch in range(config.num_ppo_epochs):
            order = np.random.default_rng((config.seed, step, epoch)).permutation(len(rollout))
            for number, indices in enumerate(np.split(order, config.num_mini_batches)):
                batch = rollout.take(indices.tolist())
                if train_policy:
                    optimiser_step = (step * config.num_ppo_epochs + epoch) * config.num_mini_batches + number
                    sums.update(self.step_policy(batch, optimiser_step))
                sums.update(self.step_value(batch))
        return averages(sums)

    def step_policy(self, batch: Rollout, optimiser_step: int) -> dict[str, float]:
        """One optimiser step of the policy on a minibatch, with SFT micro-batches mixed in when asked for."""
        sums, tokens = Counter(), batch.completion_mask.sum().item()

        def policy_logprobs(input_ids: Tensor, mask: Tensor) -> Tensor:
            return token_logprobs(self.policy.model, input_ids, mask, self.config.temperature)

        def surrogate(part: Rollout) -> Tensor:
            logprobs, counted = self.flat(part, policy_logprobs)
            old_logprobs, advantages = part.old_logprobs[counted], part.advantages[counted]
            loss = ppo_policy_loss(logprobs, old_logprobs, advantages, self.config.cliprange).sum()
            sums.update(policy_metrics(logprobs.detach() - old_logprobs, self.config.cliprange))
            sums.update({"loss/policy_avg": loss.item()})
            return loss

        closures = [lambda part=part: surrogate(part) for part in self.parts(batch)]

        def mixed_in(sft_loss: Closure) -> Tensor:
            loss = sft_loss()
            sums.update({"loss/ptx_avg": loss.item()})
            return self.config.ptx_coef * tokens * loss  # the engine divides by the tokens of the minibatch

        if self.ptx is not None:
            closures += [lambda one=one: mixed_in(one) for one in self.ptx(optimiser_step)]
        done = self.policy.step(closures, lambda closure: closure(), tokens)
        return {
            **sums,
            **prefixed("policy", done),
            "policy_steps": 1,
            "ptx_steps": int(self.ptx is not None),
        }

    def step_value(self, batch: Rollout) -> dict[str, float]:
        """One optimiser step of the value model on a minibatch."""
        sums, config = Counter(), self.config

        def loss_sum(part: Rollout) -> Tensor:
            values, counted = self.flat(part, self.value.model.values)
            old_values, returns = part.values[counted], part.returns[counted]
            clipped = (values.detach() - old_values).abs() > config.cliprange_value
            loss = ppo_value_loss(values, old_values, returns, config.cliprange_value).sum()
            sums.update({"val/clipfrac_avg": clipped.sum().item(), "value_tokens": len(values)})
            sums.update({"loss/value_avg": loss.item()})
            return config.vf_coef * loss

        done = self.value.step(self.parts(batch), loss_sum, batch.completion_mask.sum().item())
        return {**sums, **prefixed("value", done), "value_steps": 1}

    def parts(self, batch: Rollout) -> list[Rollout]:
        """The minibatch in micro-batches under the token budget, each trimmed to its longest completion."""
        lengths = [
            len(prompt) + length for prompt, length in zip(batch.prompt_ids, batch.lengths.tolist(), strict=True)
        ]
        return [batch.take(group) for group in micro_batches(lengths, self.micro_batch_tokens)]

    def flat(self, part: Rollout, model: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Apply a model to the part's sequences: its numbers for the counted tokens [n], and their places [B, T]."""
        input_ids, mask = join(part.prompt_ids, part.completions(), self.pad_id)
        device = part.completion_mask.device
        return model(input_ids.to(device), mask.to(device)), part.completion_mask.bool()


def policy_metrics(log_ratio: Tensor, cliprange: float) -> dict[str, float]:
    """Sums over tokens of what PPO watches; log_ratio [n] is the policy's over the one that sampled."""
    ratio = log_ratio.exp()
    return {
        "policy/approxkl_avg": (0.5 * log_ratio**2).sum().item(),
        "policy/clipfrac_avg": ((ratio - 1).abs() > cliprange).sum().item(),
        "val/ratio": ratio.sum().item(),
        "ratio_squared": (ratio**2).sum().item(),
        "policy_tokens": len(ratio),
    }


def prefixed(model: str, done: dict[str, float]) -> dict[str, float]:
    """What the engine says of one step, under the model's name; its loss is summed token by token instead."""
    return {f"{model}/{name}": done[name] for name in ("grad_norm", "learning_rate")}


def averages(sums: Counter) -> dict[str, float]:
    """Means over tokens or optimiser steps of everything the minibatches summed up."""
    metrics = {}
    for name, per in DENOMINATORS.items():
        if sums[per]:
            metrics[name] = sums[name] / sums[per]
    if sums["policy_tokens"]:
        metrics["val/ratio_var"] = sums["ratio_squared"] / sums["policy_tokens"] - metrics["val/ratio"] ** 2
    return metrics

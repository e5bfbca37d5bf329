"""Rollouts written out by hand, and the parts of a small PPO run."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from torch import tensor as T

from easyrlhf.config import GRPOConfig, PPOConfig


@pytest.fixture
def ppo_config() -> Callable:
    """ppo_config(**settings) -> PPOConfig."""

    def make(**changed) -> PPOConfig:
        known = {"model": "m", "reward_model": "rm", "train_data": "x.jsonl", "batch_size": 2, "num_ppo_epochs": 1}
        return PPOConfig(**known | changed)

    return make


@pytest.fixture
def grpo_config() -> Callable:
    """grpo_config(**settings) -> GRPOConfig: two completions to a prompt."""

    def make(**changed) -> GRPOConfig:
        known = {"model": "m", "reward_model": "rm", "train_data": "x.jsonl", "batch_size": 4, "num_generations": 2}
        return GRPOConfig(**known | changed)

    return make


@pytest.fixture
def hand_rollout(prompt_row):
    """Two completions of 3 and 2 tokens, with junk in the padding."""
    from easyrlhf.online.rollout import Rollout

    return Rollout(
        rows=[prompt_row([5, 6], "first"), prompt_row([7], "second")],
        completion_ids=T([[11, 12, 13], [14, 15, 0]]),
        completion_mask=T([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]]),
        finished=T([True, False]),
        sampler_logprobs=T([[-1.0, -2.1, -3.0], [-1.2, -1.0, 0.0]]),
        old_logprobs=T([[-1.0, -2.0, -3.0], [-1.0, -1.0, 9.0]]),
        ref_logprobs=T([[-1.5, -2.0, -2.0], [-2.0, -1.0, 0.0]]),
        entropies=T([[1.0, 2.0, 3.0], [4.0, 5.0, 99.0]]),
        values=T([[0.5, 0.5, 0.5], [1.0, 1.0, 7.0]]),
        scores=T([1.0, 2.0]),
        source_scores={"good": T([1.0, 3.0]), "bad": T([0.0, 0.0])},
    )


@dataclass(frozen=True)
class Says:
    """A reward source that says given numbers."""

    scores: list
    name: str = "says"

    def __call__(self, rows, completions, finished):
        return self.scores


@pytest.fixture
def says() -> type[Says]:
    """says(scores, name) -> a reward source that says these scores whatever it is asked."""
    return Says

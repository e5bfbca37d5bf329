"""Rewards that tell nothing apart: no weight moves, whatever the number, and the run says so."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from easyrlhf.config import GRPOConfig, PPOConfig
from easyrlhf.stages.online import train_grpo, train_ppo

FUNCTION = """
def constant(completions, **_):
    return [{value}] * len(completions)
"""


@pytest.fixture
def constant(data, chain, tmp_path):
    """constant(value) -> settings of a run whose reward is that number for every answer."""

    def settings(value: float) -> dict:
        (tmp_path / "rewards.py").write_text(FUNCTION.format(value=value))
        return {
            "model": chain.sft,
            "train_data": data.prompts,
            "reward_funcs": f"{tmp_path / 'rewards.py'}:constant",
            "missing_eos_penalty": 0.0,
            "num_sample_generations": 0,
            "output_dir": str(tmp_path / "run"),
            "weight_decay": 0.0,
        }

    return settings


def assert_unmoved(folder: Path, start: str) -> list[dict]:
    """The rows of metrics.jsonl of a run whose policy is its start in its own precision, bit for bit."""
    before, after = (load_file(Path(where) / "model.safetensors") for where in (start, folder))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name].to(after[name].dtype), after[name]) for name in before)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "value, settings",
    [
        (0.7, {"num_generations": 8}),
        (1000.3, {"num_generations": 8, "scale_rewards": "batch"}),
        (1.1, {"num_generations": 4, "multi_objective_aggregation": "normalize_then_sum"}),
        (0.7, {"num_generations": 8, "advantage": "rloo"}),
        (0.35, {"num_generations": 1, "advantage": "reinforce++"}),
        (0.1, {"num_generations": 8, "precision": "bf16"}),
        (-3e-7, {"num_generations": 2, "advantage": "rloo", "precision": "bf16"}),
    ],
)
def test_no_group_method_learns_from_equal_scores(constant, small_grpo, chain, value, settings):
    known = small_grpo | {"num_mini_batches": 1, "num_iterations": 1} | constant(value)
    rows = assert_unmoved(train_grpo(GRPOConfig(**known | settings)), chain.sft)
    assert [row["policy/skipped_steps"] for row in rows] == [1] * 6
    assert "policy/grad_norm" not in rows[0]
    expected = None if settings.get("advantage") == "reinforce++" else 1.0
    assert [row.get("health/equal_groups") for row in rows] == [expected] * 6


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_policy_of_ppo_does_not_learn_from_equal_scores(constant, small_ppo, chain, precision):
    """At lambda 1 and a value model that learns nothing, every token's advantage is the score."""
    known = small_ppo | {"num_mini_batches": 1, "num_ppo_epochs": 1, "lam": 1.0, "kl_coef": 0.0, "vf_coef": 0.0}
    rows = assert_unmoved(train_ppo(PPOConfig(**known | constant(0.7), precision=precision)), chain.sft)
    assert [row["policy/skipped_steps"] for row in rows] == [1] * 6

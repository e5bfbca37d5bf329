"""Rewards that tell nothing apart, in two processes: no weight moves, and the run says so."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from easyrlhf.userfile import load_module

SMALL = load_module(Path(__file__).parents[1] / "stages" / "conftest.py").SMALL

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def test_two_processes_do_not_learn_from_equal_scores(data, chain, launch, tmp_path):
    """Each scores one of two prompts, under ZeRO-3; the advantages are those of all answers."""
    (tmp_path / "rewards.py").write_text("def constant(completions, **_):\n    return [0.35] * len(completions)\n")
    settings = {"model": chain.sft, "train_data": data.prompts, "reward_funcs": f"{tmp_path / 'rewards.py'}:constant"}
    settings |= {"max_completion_length": 4, "num_generations": 4, "total_episodes": 48, "num_sample_generations": 0}
    folder = tmp_path / "run"
    known = SMALL | {"devices": "cpu:2", "missing_eos_penalty": 0, "precision": "bf16", "output_dir": folder}
    command = launch("grpo", **known | settings)
    assert command.wait() == 0, command.out + command.err
    before, after = (load_file(Path(where) / "model.safetensors") for where in (chain.sft, folder))
    assert all(torch.equal(before[name].to(after[name].dtype), after[name]) for name in before)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["policy/skipped_steps"] for row in rows] == [1] * 6
    assert "lr_scheduler" not in "".join(log.read_text() for log in (folder / "logs").glob("*.log"))

"""The evaluation before the first step: logged as step 0, kept if it is the best, and no number of training moved."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from easyrlhf.config import GRPOConfig, PPOConfig, SFTConfig
from easyrlhf.errors import SettingError
from easyrlhf.stages.online import train_grpo, train_ppo
from easyrlhf.stages.sft import train_sft

CLOCK = ("time/", "tokens_per_second")
FUNCTIONS = """
def shorter(completions, **_):
    return [-float(len(completion[0]["content"])) for completion in completions]

def ten(completions, **_):
    return [10.0] * len(completions)
"""


@pytest.fixture
def settings(data, chain, tmp_path) -> dict:
    """Of a run with two reward functions and eight held-out prompts."""
    (tmp_path / "rewards.py").write_text(FUNCTIONS)
    few = tmp_path / "few.jsonl"
    few.write_text("".join(Path(data.prompts).read_text().splitlines(keepends=True)[:8]))
    return {
        "model": chain.sft,
        "train_data": data.prompts,
        "valid_data": str(few),
        "reward_funcs": f"{tmp_path}/rewards.py:shorter,{tmp_path}/rewards.py:ten",
        "total_episodes": 24,
        "num_sample_generations": 0,
        "save_steps": 0,
    }


def rows_of(folder: Path) -> list[dict]:
    """The rows of metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(CLOCK)} for row in rows]


@pytest.mark.parametrize("stage", ["ppo", "grpo"])
def test_an_evaluation_moves_no_number_of_training(stage, settings, small_ppo, small_grpo, tmp_path):
    train, config_class, small = {
        "ppo": (train_ppo, PPOConfig, small_ppo),
        "grpo": (train_grpo, GRPOConfig, small_grpo),
    }[stage]
    known = small | settings | {"measure_kl": "step"}
    looked = train(config_class(**known | {"eval_steps": 1}, output_dir=str(tmp_path / "looked")))
    alone = train(config_class(**known | {"valid_data": None}, output_dir=str(tmp_path / "alone")))
    rows = rows_of(looked)
    training = [{k: v for k, v in row.items() if not k.startswith("eval/")} for row in rows]
    assert training == [{"step": 0}, *rows_of(alone)]
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (looked, alone))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for row in rows:
        assert row["eval/reward/ten/mean"] == 10.0
        assert row["eval/reward/shorter/mean"] + 10.0 == pytest.approx(
            row["eval/scores"] + known.get("missing_eos_penalty", stage == "ppo") * (1 - row["eval/eos_rate"]), abs=1e-5
        )
    assert rows[0]["eval/kl"] == 0.0 and rows[3]["eval/kl"] != 0.0


def test_the_start_is_kept_where_it_is_the_best(settings, small_grpo, chain, tmp_path):
    """A learning rate this high makes answers worse: the folder gets the weights it began with."""
    known = small_grpo | settings | {"learning_rate": 1.0, "keep_best": "eval/scores", "eval_steps": 1}
    folder = train_grpo(GRPOConfig(**known, output_dir=str(tmp_path / "run")))
    best = json.loads((folder / "stage.json").read_text())["best"]
    scores = [row["eval/scores"] for row in rows_of(folder)]
    assert best == {"metric": "eval/scores", "step": 0, "value": scores[0]} and scores[0] == max(scores)
    ours, start = (load_file(Path(where) / "model.safetensors") for where in (folder, chain.sft))
    assert all(torch.equal(ours[name], start[name]) for name in start)


def test_it_can_be_left_out_and_offline_stages_have_it_when_asked(settings, small, small_grpo, data, chain, tmp_path):
    known = small_grpo | settings | {"eval_at_start": False}
    assert rows_of(train_grpo(GRPOConfig(**known, output_dir=str(tmp_path / "grpo"))))[0]["step"] == 1
    known = small | {"model": chain.init, "train_data": data.sft, "max_steps": 2, "eval_steps": 1}
    with_valid = known | {"valid_data": data.sft}
    assert [row["step"] for row in rows_of(train_sft(SFTConfig(**with_valid, output_dir=str(tmp_path / "sft"))))] == [
        1,
        2,
    ]
    looked = train_sft(SFTConfig(**with_valid, eval_at_start=True, output_dir=str(tmp_path / "looked")))
    rows = rows_of(looked)
    assert rows[0].keys() == {"step", "eval/loss", "eval/perplexity"} and rows[1:] == rows_of(tmp_path / "sft")
    with pytest.raises(SettingError, match="eval_at_start: needs valid_data"):
        SFTConfig(**known | {"eval_steps": None}, eval_at_start=True)

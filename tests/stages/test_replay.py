"""Runs that keep groups and ask prompts once more: a stopped one goes on as if it had not been, buffer and all."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from easyrlhf.config import GRPOConfig
from easyrlhf.errors import RunStopped
from easyrlhf.stages.online import train_grpo

CODE = """
def even(completions, **_):
    return [float(len(messages[0]["content"]) % 2) for messages in completions]
"""
REMEMBERS = {"replay_buffer_size": 6, "reroll_max_groups": 1, "reroll_start_fraction": 0.0, "num_generations": 2}


@pytest.fixture
def train(data, chain, small_grpo, tmp_path, monkeypatch):
    """train(folder, **settings) -> the folder of a run of 6 rollouts."""
    for name in ("plot_run", "write_report"):
        monkeypatch.setattr(f"easyrlhf.stages.lifecycle.{name}", lambda *_, **__: None)
    (tmp_path / "rewards.py").write_text(CODE)

    def run(name: str, **settings) -> Path:
        known = small_grpo | {"model": chain.sft, "train_data": data.prompts, "reward_model": None, "save_steps": 0}
        known |= {"reward_funcs": f"{tmp_path}/rewards.py:even", "max_steps": 6, "output_dir": str(tmp_path / name)}
        return Path(train_grpo(GRPOConfig(**known | REMEMBERS | settings)))

    return run


def rows_of(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "tokens_per_second"))} for row in rows]


@pytest.mark.parametrize("settings", [{"beta": 0.1}, {"lora_r": 4, "advantage": "rloo"}], ids=["grpo", "rloo, lora"])
def test_a_stopped_run_remembers_what_it_kept(train, stop_after, settings):
    whole = train("whole", **settings)
    assert max(row["replay/used"] for row in rows_of(whole)) > 0
    go_on = stop_after(3)
    with pytest.raises(RunStopped):
        train("stopped", **settings)
    go_on()
    stopped = train("stopped", **settings)
    assert rows_of(stopped) == rows_of(whole)
    for name, tensor in load_file(whole / "model.safetensors").items():
        assert torch.equal(tensor, load_file(stopped / "model.safetensors")[name]), name


def test_what_is_kept_is_learned_from(train):
    plain, kept = train("plain", replay_buffer_size=0), train("kept")
    used = [row["replay/used"] for row in rows_of(kept)]
    first = next(place for place, share in enumerate(used) if share)
    names = ("policy/grad_norm", "objective/scores", "health/equal_groups")
    assert [[row[n] for n in names] for row in rows_of(kept)[:first]] == [
        [row[n] for n in names] for row in rows_of(plain)[:first]
    ]
    assert rows_of(kept)[first]["policy/grad_norm"] != rows_of(plain)[first]["policy/grad_norm"]
    assert rows_of(kept)[first]["objective/scores"] == rows_of(plain)[first]["objective/scores"]  # of its own samples

"""The reference of online stages: who it is, and where there is none."""

from types import SimpleNamespace

import pytest
import torch

from easyrlhf.config import GRPOConfig, PPOConfig
from easyrlhf.stages import online, online_models, plan
from easyrlhf.stages.online import ModelFolders
from easyrlhf.stages.online_models import load_reference
from easyrlhf.stages.reward_sources import RewardPlan

SHOWN = {
    "none": "none, as beta is 0 and measure_kl auto; --measure_kl step asks one",
    "off": "the policy with its adapter off, which takes no memory",
}


@pytest.mark.parametrize(
    "settings, loaded, shown",
    [
        ({}, None, SHOWN["none"]),
        ({"beta": 0.1}, "m", None),
        ({"measure_kl": "eval"}, "m", None),
        ({"ref_model": "other"}, "other", None),
        ({"lora_r": 4}, None, SHOWN["off"]),
        ({"lora_r": 4, "beta": 0.1}, None, SHOWN["off"]),
        ({"lora_r": 4, "beta": 0.1, "ref_model": "other"}, "other", None),
        ({"lora_r": 4, "measure_kl": "never"}, None, SHOWN["none"].replace("auto", "never")),
    ],
)
def test_no_reference_is_loaded_where_it_is_never_asked(monkeypatch, settings, loaded, shown):
    monkeypatch.setattr(online_models, "load_frozen_lm", lambda run, renderer, path: path)
    config = GRPOConfig(model="m", reward_funcs="a.py:f", train_data="p.jsonl", **settings).resolved()
    assert load_reference(SimpleNamespace(config=config), None) == loaded
    cast = ModelFolders(None, RewardPlan([]))
    assert cast.beside(config).get("reference") == shown
    assert ("reference" in cast.named(config)) == (config.kl_measured != "never")


def test_the_start_summary_says_what_is_held(monkeypatch, model_folder):
    """A model of its own has a size; a part without one says what it is."""
    folder = str(model_folder())
    run = SimpleNamespace(
        config=PPOConfig(
            model=folder, reward_model="rm", train_data="p.jsonl", lora_r=4, share_backbone=True, output_dir="out"
        ).resolved(),
        dtype=torch.float32,
        device=SimpleNamespace(type="cuda"),
        passed_over=[],
        remarks=[],
        beginning=lambda: "from the beginning",
        zero=None,
    )
    monkeypatch.setattr(plan, "count_parameters", lambda path, trust: 1_000_000)
    monkeypatch.setattr(plan, "choose_threads", lambda device, count: None)
    cast = online.ModelFolders(None, RewardPlan([]))
    said = {}
    console = SimpleNamespace(warn=print, summary=lambda title, sections: said.update(sections))
    plan.print_plan(run, console, plan.RunPlan("PPO", 5, {}, cast.named(run.config), cast.beside(run.config)))
    assert said["models"] == [
        f"policy: {folder}, 1.0M parameters, LoRA, about 0.00 GiB",
        f"reference: {SHOWN['off']}",
        "value model: an adapter and a head on the policy's base",
        "reward model: an adapter and a head on the policy's base",
    ]

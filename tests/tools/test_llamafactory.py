"""Reward models in the layouts of LLaMA-Factory: a value head beside full weights, or beside a LoRA adapter."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import tensor as T
from transformers import AutoModelForCausalLM

from easyrlhf.config import PPOConfig, ServeRewardConfig
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.errors import InputError
from easyrlhf.models.folder import load_scalar_model
from easyrlhf.stages.online import train_ppo
from easyrlhf.tools.scoring import load_scorer

ROWS = [[1, 6, 7, 8, 9, 2], [10, 11, 2], [12, 2]]
HEAD = {"v_head.summary.weight": torch.linspace(-1, 1, 32)[None], "v_head.summary.bias": T([0.5])}


@pytest.fixture
def full(model_folder, tokenizer) -> SimpleNamespace:
    """Full weights, tokenizer and head; no stage.json."""
    folder = model_folder("full")
    save_file(HEAD, folder / "value_head.safetensors", metadata={"format": "pt"})
    return SimpleNamespace(folder=folder, lm=AutoModelForCausalLM.from_pretrained(folder).eval())


@pytest.fixture
def lora(model_folder, tokenizer, tmp_path) -> SimpleNamespace:
    """An adapter, tokenizer and head; the base model's path is in adapter_config.json."""
    base = model_folder("base")
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2)
    folder = tmp_path / "lora"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    save_file(HEAD, folder / "value_head.safetensors", metadata={"format": "pt"})
    assert not (folder / "config.json").exists()
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).merge_and_unload()
    return SimpleNamespace(folder=folder, base=base, lm=merged.eval())


@torch.no_grad()
def by_hand(lm) -> list[float]:
    """v_head.summary of the last hidden state at the last token."""
    hidden = [lm(input_ids=T([row]), output_hidden_states=True).hidden_states[-1][0, -1] for row in ROWS]
    return [(HEAD["v_head.summary.weight"][0] @ h + HEAD["v_head.summary.bias"]).item() for h in hidden]


@torch.no_grad()
def loaded(folder: Path) -> list[float]:
    model = load_scalar_model(str(folder), load_tokenizer(str(folder)), dtype=torch.float32).eval()
    width = max(map(len, ROWS))
    return model.scores(T([row + [0] * (width - len(row)) for row in ROWS]), T([len(row) for row in ROWS])).tolist()


@pytest.mark.parametrize("layout", ["full", "lora"])
def test_scores_are_the_head_on_the_last_hidden_state(layout, request):
    found = request.getfixturevalue(layout)
    assert loaded(found.folder) == pytest.approx(by_hand(found.lm), abs=1e-5)


@torch.no_grad()
def test_the_adapter_counts(lora):
    base = AutoModelForCausalLM.from_pretrained(lora.base).eval()
    assert max(abs(a - b) for a, b in zip(loaded(lora.folder), by_hand(base), strict=True)) > 0.05


def test_an_old_head_in_bin_is_read_beside_an_adapter(lora):
    (lora.folder / "value_head.safetensors").unlink()
    torch.save(HEAD, lora.folder / "value_head.bin")
    assert loaded(lora.folder) == pytest.approx(by_hand(lora.lm), abs=1e-5)


@pytest.mark.parametrize("layout", ["full", "lora"])
def test_it_is_served_and_exported(layout, request, tmp_path, exported):
    found = request.getfixturevalue(layout)
    load_scorer(ServeRewardConfig(reward_model=str(found.folder), devices="cpu"))
    out = exported(found.folder, tmp_path / "out")
    assert loaded(out) == pytest.approx([score - 0.5 for score in by_hand(found.lm)], abs=1e-5)


@pytest.mark.parametrize("layout", ["full", "lora"])
def test_ppo_train_takes_it_as_reward_model(layout, request, model_folder, tmp_path):
    found = request.getfixturevalue(layout)
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in ("Say blue.", "Hello", "Why", "Name")]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"max_length": 64, "max_prompt_length": 40, "batch_size": 4, "response_length": 4, "max_steps": 1}
    folder = train_ppo(
        PPOConfig(
            model=str(model_folder("policy")),
            reward_model=str(found.folder),
            train_data=str(tmp_path / "prompts.jsonl"),
            output_dir=str(tmp_path / "ppo"),
            devices="cpu",
            report_to="none",
            missing_eos_penalty=0.0,
            **settings,
        )
    )
    samples = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert abs(samples[0]["objective/scores"]) > 0
    assert (folder / "value_model" / "value_head.safetensors").exists()


def test_a_head_of_another_model_is_refused_beside_an_adapter(lora):
    save_file({**HEAD, "v_head.summary.weight": torch.zeros(1, 16)}, lora.folder / "value_head.safetensors")
    with pytest.raises(InputError, match=r"holds v_head.summary.bias \[1\], v_head.summary.weight \[1, 16\]"):
        loaded(lora.folder)

"""Stages that start from an adapter folder: peft freezes what it wraps, and every merged weight must train again."""

import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from easyrlhf.config import DPOConfig, GRPOConfig, KTOConfig, ORPOConfig, PPOConfig, RMConfig, SFTConfig
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.models.load import load_causal_lm
from easyrlhf.stages.kto import train_kto
from easyrlhf.stages.online import train_grpo, train_ppo
from easyrlhf.stages.preference import train_dpo, train_orpo
from easyrlhf.stages.rm import train_rm
from easyrlhf.stages.sft import train_sft

OFFLINE = {
    "sft": (train_sft, SFTConfig, "sft"),
    "rm": (train_rm, RMConfig, "pairs"),
    "dpo": (train_dpo, DPOConfig, "pairs"),
    "orpo": (train_orpo, ORPOConfig, "pairs"),
    "kto": (train_kto, KTOConfig, "pairs"),
}
ONLINE = {"ppo": (train_ppo, PPOConfig), "grpo": (train_grpo, GRPOConfig)}
STYLES = {
    "linear layers": {"target_modules": "all-linear"},
    "modules to save": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "tokens": {"target_modules": ["q_proj", "v_proj"], "trainable_token_indices": [3, 5]},
    "embeddings too": {"target_modules": ["embed_tokens", "q_proj"]},
}


@pytest.fixture
def adapter(chain, tmp_path):
    """adapter(style) -> folder of an adapter of chain.sft as TRL's and LLaMA-Factory's trainers leave it."""

    def make(style: str = "linear layers") -> Path:
        lm = AutoModelForCausalLM.from_pretrained(chain.sft)
        lora = get_peft_model(lm, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **STYLES[style]))
        torch.manual_seed(1)
        for parameter in lora.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
        lora.save_pretrained(tmp_path / "adapter")
        load_tokenizer(chain.sft).save_pretrained(tmp_path / "adapter")
        assert not (tmp_path / "adapter" / "config.json").exists()
        return tmp_path / "adapter"

    return make


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Name → tensor of what a folder stands for."""
    lm = load_causal_lm(str(folder), load_tokenizer(str(folder)), dtype=torch.float32)
    return {name: parameter.detach().clone() for name, parameter in lm.named_parameters()}


def unmoved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> list[str]:
    """Tensors that no step has changed; the language-model head of a scalar model is not to be trained."""
    assert before.keys() == after.keys() and len(before) > 15
    return [name for name, tensor in before.items() if torch.equal(tensor, after[name])]


@pytest.fixture
def offline(data, small, tmp_path):
    """offline(stage, folder) -> folder of two steps of full fine-tuning from there, with nothing said by libraries."""

    def run(stage: str, folder, **more) -> Path:
        train, config, rows = OFFLINE[stage]
        settings = small | {"learning_rate": 1e-2, "max_steps": 2, "output_dir": str(tmp_path / stage)}
        settings |= {"model": str(folder), "train_data": getattr(data, rows)}
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            return train(config(**settings | more))

    return run


@pytest.mark.parametrize("stage", OFFLINE)
def test_every_weight_of_a_merged_adapter_is_trained(stage, adapter, offline):
    folder = adapter()
    heads = ["lm_head.weight"] if stage == "rm" else []
    before = weights(folder)
    assert unmoved(before, weights(offline(stage, folder))) == [name for name in heads if name in before]


@pytest.mark.parametrize("style", list(STYLES)[1:])
def test_every_weight_of_every_kind_of_adapter_is_trained(style, adapter, offline):
    folder = adapter(style)
    assert unmoved(weights(folder), weights(offline("sft", folder))) == []


@pytest.mark.parametrize("stage", ONLINE)
def test_online_stages_train_every_weight_of_a_merged_adapter(stage, adapter, data, request, tmp_path):
    function = "def score(completions, **_):\n    return [len(str(c)) for c in completions]\n"
    (tmp_path / "rewards.py").write_text(function)
    train, config = ONLINE[stage]
    folder, settings = adapter(), request.getfixturevalue(f"small_{stage}")
    before = weights(folder)
    settings |= {"learning_rate": 1e-2, "total_episodes": 16, "output_dir": str(tmp_path / stage)}
    settings |= {"model": str(folder), "train_data": data.prompts, "reward_funcs": f"{tmp_path}/rewards.py:score"}
    done = train(config(**settings))
    assert unmoved(before, weights(done)) == []
    if stage == "ppo":
        heads = [name for name in before if name == "lm_head.weight"]
        assert unmoved(before, weights(done / "value_model")) == heads


def test_a_value_model_that_starts_from_the_adapter_of_a_reward_model_is_trained(
    adapter, chain, data, small_ppo, tmp_path
):
    """LLaMA-Factory's reward model: adapter, tokenizer and value head in one folder."""
    folder = adapter()
    head = {"v_head.summary.weight": torch.linspace(-1, 1, 128)[None], "v_head.summary.bias": torch.tensor([0.5])}
    save_file(head, folder / "value_head.safetensors")
    before = weights(folder)
    settings = small_ppo | {"value_learning_rate": 1e-2, "total_episodes": 16, "output_dir": str(tmp_path / "ppo")}
    settings |= {"model": chain.sft, "reward_model": str(folder), "train_data": data.prompts}
    done = train_ppo(PPOConfig(**settings))
    assert unmoved(before, weights(done / "value_model")) == [name for name in before if name == "lm_head.weight"]

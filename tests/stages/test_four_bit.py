"""--load_in_4bit through the stages: sft, rm and ppo on a base in 4 bits, resumed, and what their folders are."""

import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from easyrlhf.config import DPOConfig, PPOConfig, RMConfig, SFTConfig
from easyrlhf.errors import InputError, RunStopped, SettingError
from easyrlhf.models.four_bit import quantise
from easyrlhf.stages.online import train_ppo
from easyrlhf.stages.preference import train_dpo
from easyrlhf.stages.rm import train_rm
from easyrlhf.stages.sft import train_sft
from easyrlhf.stages.shared_backbone import check_bits

FOUR = {"load_in_4bit": True, "lora_r": 4, "learning_rate": 1e-2}
SMALL = {"max_length": 64, "max_prompt_length": 40, "batch_size": 8, "devices": "cpu", "report_to": "none"}
IDS = torch.tensor([[5, 6, 7, 8, 9]])
CLOCK = ("time/", "tokens_per_second")


def rows(folder: str | Path) -> list[dict]:
    found = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(CLOCK)} for row in found]


def finite(folder: str | Path) -> bool:
    numbers = [value for row in rows(folder) for value in row.values() if isinstance(value, float)]
    return bool(numbers) and all(map(math.isfinite, numbers))


@pytest.fixture(scope="module")
def four(chain, data, tmp_path_factory) -> dict[str, str]:
    """Folders of an sft and of an rm on it, both in 4 bits."""
    folder = tmp_path_factory.mktemp("four")
    sft, rm = str(folder / "sft"), str(folder / "rm")
    train_sft(SFTConfig(model=chain.sft, train_data=data.sft, valid_data=data.sft, output_dir=sft, **SMALL | FOUR))
    pairs = {"train_data": data.pairs, "valid_data": data.pairs, "epochs": 2}
    train_rm(RMConfig(model=sft, output_dir=rm, **pairs, **SMALL | FOUR))
    return {"sft": sft, "rm": rm}


@pytest.fixture
def ppo(four, data, small_ppo, tmp_path):
    """ppo(name, **settings) -> folder of a PPO run in 4 bits."""

    def run(name: str, **settings) -> Path:
        known = small_ppo | FOUR | {"model": four["sft"], "reward_model": four["rm"], "train_data": data.prompts}
        known |= {"output_dir": str(tmp_path / name), "save_steps": 2, "total_episodes": 32}
        return train_ppo(PPOConfig(**known | settings))

    return run


def test_the_adapter_on_the_base_in_four_bits_is_the_saved_model(four, chain):
    lm = AutoModelForCausalLM.from_pretrained(chain.sft)
    quantise(lm, torch.device("cpu"))
    base = lm(IDS).logits
    trained = PeftModel.from_pretrained(lm, f"{four['sft']}/adapter")(input_ids=IDS).logits
    saved = AutoModelForCausalLM.from_pretrained(four["sft"])
    torch.testing.assert_close(saved(IDS).logits, trained, rtol=1e-4, atol=1e-4)
    assert (trained - base).abs().max() > 0.1
    assert "quantization_config" not in json.loads(Path(four["sft"], "config.json").read_text())


def test_what_was_learned_is_measured(four):
    assert finite(four["sft"]) and finite(four["rm"])
    losses = [row["eval/loss"] for row in rows(four["sft"]) if "eval/loss" in row]
    assert losses[-1] < 0.5
    accuracies = [row["eval/rewards/accuracies"] for row in rows(four["rm"]) if "eval/rewards/accuracies" in row]
    assert accuracies[-1] > 0.9


def test_ppo_begins_at_its_reference_and_goes_on_bit_for_bit(ppo, stop_after):
    whole = ppo("whole")
    first = rows(whole)[0]
    assert first["objective/kl"] == pytest.approx(0.0, abs=1e-6) and finite(whole)
    assert rows(whole)[-1]["objective/kl"] > 1e-4
    stop_signals_off = stop_after(3)
    with pytest.raises(RunStopped):
        ppo("stopped")
    stop_signals_off()
    assert rows(ppo("stopped")) == rows(whole)
    assert AutoModelForCausalLM.from_pretrained(whole / "value_model")(IDS).logits.isfinite().all()


def test_a_shared_backbone_in_four_bits_scores_as_models_of_their_own(ppo):
    """But for the value model, which starts from the merged reward model put in 4 bits anew when it has its own."""
    once = {"total_episodes": 8}
    together, apart = rows(ppo("together", share_backbone=True, **once))[0], rows(ppo("apart", **once))[0]
    for name in ("objective/scores", "objective/kl"):
        assert together[name] == pytest.approx(apart[name], rel=1e-4, abs=1e-5), name


def test_dpos_reference_is_the_base_in_four_bits(four, data, tmp_path):
    settings = {"model": four["sft"], "train_data": data.pairs, "output_dir": str(tmp_path / "dpo"), "epochs": 1}
    folder = train_dpo(DPOConfig(**settings, **SMALL | FOUR))
    assert rows(folder)[0]["loss"] == pytest.approx(math.log(2), abs=1e-6) and finite(folder)
    assert rows(folder)[-1]["loss"] < 0.6


@pytest.mark.parametrize(
    "config, settings, message",
    [
        (SFTConfig, {"lora_r": 0}, "load_in_4bit true: belongs to LoRA, and lora_r 0 trains all weights"),
        (SFTConfig, {"deepspeed": "zero3"}, "deepspeed zero3 cuts weights into parts"),
        (PPOConfig, {"rollout": "vllm"}, "rollout vllm samples from the base in its own precision"),
    ],
)
def test_what_it_cannot_go_with_is_refused(config, settings, message):
    with pytest.raises(SettingError) as caught:
        config(train_data="rows.jsonl", **FOUR | settings)
    assert message in str(caught.value)


def test_adapters_share_a_base_of_as_many_bits(four, chain):
    check_bits("--reward_model", four["rm"], True)
    with pytest.raises(InputError, match=r"was trained on a base in 4 bits, .* give --load_in_4bit, or leave"):
        check_bits("--reward_model", four["rm"], False)
    with pytest.raises(InputError, match=r"on a base in its own precision, .* leave --load_in_4bit out, or leave"):
        check_bits("--reward_model", chain.rm, True)

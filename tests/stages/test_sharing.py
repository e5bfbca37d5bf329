"""--share_backbone through the stage: what is saved, what is refused, and that it goes on where it stopped."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from easyrlhf.config import GRPOConfig, PPOConfig, RMConfig
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.errors import InputError, RunStopped, SettingError
from easyrlhf.models.folder import load_scalar_model
from easyrlhf.stages.online import train_grpo, train_ppo
from easyrlhf.stages.rm import train_rm
from easyrlhf.stages.shared_backbone import check_base

CLOCK = ("time/", "tokens_per_second")


@pytest.fixture(scope="session")
def lora_rm(chain, data, tmp_path_factory) -> str:
    """A reward model that is an adapter of chain.sft, of another rank than the policy's."""
    folder = str(tmp_path_factory.mktemp("shared") / "rm")
    settings = {"max_length": 64, "max_prompt_length": 40, "batch_size": 8, "devices": "cpu", "report_to": "none"}
    train_rm(RMConfig(model=chain.sft, train_data=data.pairs, output_dir=folder, lora_r=2, **settings))
    return folder


@pytest.fixture
def shared(chain, data, lora_rm, small_ppo, tmp_path):
    """shared(name, **settings) -> folder of a PPO run on a shared backbone."""

    def run(name: str, **settings) -> Path:
        known = small_ppo | {"model": chain.sft, "reward_model": lora_rm, "train_data": data.prompts}
        known |= {"lora_r": 4, "learning_rate": 1e-2, "share_backbone": True, "output_dir": str(tmp_path / name)}
        return train_ppo(PPOConfig(**known | settings))

    return run


def rows(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(CLOCK)} for row in found]


def test_the_folder_is_that_of_models_of_their_own(shared, chain):
    folder = shared("ppo")
    first = rows(folder)[0]
    assert first["objective/kl"] == pytest.approx(0.0, abs=1e-6)
    assert first["val/clipfrac_avg"] >= 0 and first["loss/value_avg"] > 0
    tokenizer = load_tokenizer(str(folder))
    ids = torch.tensor([[5, 6, 7, 8]])
    trained, start = (AutoModelForCausalLM.from_pretrained(path)(ids).logits for path in (folder, chain.sft))
    assert (trained - start).abs().max() > 1e-3  # the adapter is merged into the root
    assert (folder / "adapter" / "adapter_config.json").exists()
    value = load_scalar_model(str(folder / "value_model"), tokenizer, dtype=torch.float32)
    assert value.head.weight.abs().max() > 0
    assert (folder / "value_model" / "adapter" / "adapter_config.json").exists()


def test_the_first_rollout_is_scored_as_by_models_of_their_own(shared):
    together, apart = rows(shared("together"))[0], rows(shared("apart", share_backbone=False))[0]
    for name in ("objective/scores", "objective/kl", "value/explained_variance", "policy/entropy_avg"):
        assert together[name] == pytest.approx(apart[name], rel=1e-4, abs=1e-5), name


def test_a_stopped_run_continues_bit_for_bit(shared, stop_after):
    whole = shared("whole", save_steps=2)
    stop_signals_off = stop_after(3)
    with pytest.raises(RunStopped):
        shared("stopped", save_steps=2)
    stop_signals_off()
    assert rows(shared("stopped", save_steps=2)) == rows(whole)


def test_grpo_shares_the_reward_models_backbone(chain, data, lora_rm, small_grpo, tmp_path):
    settings = small_grpo | {"model": chain.sft, "reward_model": lora_rm, "train_data": data.prompts, "lora_r": 4}
    found = [
        rows(train_grpo(GRPOConfig(output_dir=str(tmp_path / str(share)), share_backbone=share, **settings)))
        for share in (True, False)
    ]
    assert len(found[0]) == 6
    for name, value in found[1][-1].items():  # the same adapter learns the same, whoever holds the reward model
        assert found[0][-1][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_a_value_model_without_a_reward_model_begins_as_a_fresh_adapter(shared, tmp_path):
    (tmp_path / "reward.py").write_text(
        "def short(completions, **_):\n    return [-len(str(c)) for c in completions]\n"
    )
    folder = shared("functions", reward_model=None, reward_funcs=f"{tmp_path / 'reward.py'}:short")
    assert (folder / "value_model" / "value_head.safetensors").exists()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"lora_r": 0}, "share_backbone: the parts are LoRA adapters; give lora_r"),
        ({"ref_model": "elsewhere"}, "ref_model elsewhere: with share_backbone the reference is the policy without"),
    ],
)
def test_settings_that_cannot_share_are_refused(shared, settings, message):
    with pytest.raises(SettingError, match=message):
        shared("refused", **settings)


def test_a_reward_model_in_full_is_refused(shared, chain):
    with pytest.raises(InputError, match=r"has no adapter/, so it cannot share .* rm_train --lora_r 16 --model"):
        shared("refused", reward_model=chain.rm)


def test_a_reward_model_of_another_base_is_refused(shared, chain):
    with pytest.raises(InputError, match=f"was trained from {chain.sft}, not from --model {chain.init}"):
        shared("refused", model=chain.init, chat_template="chatml")


def without_account(rm: str, target: Path) -> Path:
    """A copy of a reward model as runs left it that kept no account of what they were trained on."""
    shutil.copytree(rm, target)
    stage = json.loads((target / "stage.json").read_text())
    del stage["inputs"]
    (target / "stage.json").write_text(json.dumps(stage))
    return target


def test_a_reward_model_shares_the_backbone_of_a_copy_of_its_base(lora_rm, chain, tmp_path, monkeypatch):
    shutil.copytree(chain.sft, tmp_path / "copy")
    shutil.copytree(lora_rm, tmp_path / "rm")
    older = without_account(lora_rm, tmp_path / "older")
    monkeypatch.chdir(tmp_path)
    for rm in (lora_rm, "rm", older):
        for policy in (chain.sft, "copy", f"{tmp_path}/copy/"):
            check_base("--reward_model", str(rm), policy)
    weights = (tmp_path / "copy" / "model.safetensors").read_bytes()
    (tmp_path / "copy" / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    stage = json.loads((tmp_path / "copy" / "stage.json").read_text())
    del stage["files"]["model.safetensors"]  # its own way out
    (tmp_path / "copy" / "stage.json").write_text(json.dumps(stage))
    for rm in ("rm", older):
        with pytest.raises(InputError, match=r"not from --model copy \(model\.safetensors is not the same\)") as caught:
            check_base("--reward_model", str(rm), "copy")
        assert "give --model" in str(caught.value) and "train" not in str(caught.value).partition("trained")[2]


def test_a_base_that_is_nowhere_is_told_with_the_places_and_a_way_out(lora_rm, chain, tmp_path):
    older = without_account(lora_rm, tmp_path / "a" / "rm")
    file = older / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "outputs/tsft"}))
    with pytest.raises(InputError) as caught:
        check_base("--reward_model", str(older), chain.sft)
    for place in (older / "adapter", older, tmp_path / "a", tmp_path):
        assert f"\n  {place / 'outputs' / 'tsft'}: no model" in str(caught.value)
    assert f"write its folder at base_model_name_or_path in {file}; or leave --share_backbone out" in str(caught.value)
    shutil.copytree(chain.sft, tmp_path / "a" / "outputs" / "tsft")
    check_base("--reward_model", str(older), chain.sft)


def test_an_adapter_that_was_changed_since_is_refused(shared, lora_rm, tmp_path):
    """The probes of stage.json prove that base, adapter and head belong together."""
    from safetensors.torch import load_file, save_file

    changed = tmp_path / "changed"
    shutil.copytree(lora_rm, changed)
    file = changed / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor + 0.3 for name, tensor in load_file(file).items()}, file)
    with pytest.raises(InputError, match=r"its weights or value_head\.safetensors were changed since"):
        shared("refused", reward_model=str(changed))

"""Adapter folders: what they say of their base, how they are merged, and folders that cannot be meant."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import tensor as T
from transformers import AutoModelForCausalLM

from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.errors import InputError
from easyrlhf.models.adapters import is_adapter
from easyrlhf.models.load import load_causal_lm, load_config
from easyrlhf.models.parents import base_of, root_of

IDS = T([[5, 6, 7, 8, 9, 10, 11, 12]])


@torch.no_grad()
def logits(lm) -> torch.Tensor:
    return lm.eval()(input_ids=IDS, use_cache=False).logits


def adapter_of(lm, folder: Path, seed: int = 1, **settings):
    """A LoRA model with random weights, saved as an adapter folder; returns the model."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | settings
    lora = get_peft_model(lm, LoraConfig(**settings))
    torch.manual_seed(seed)
    for parameter in lora.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    lora.save_pretrained(folder)
    return lora


def change_config(folder: Path, **changed) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


@pytest.fixture
def base(model_folder) -> Path:
    return model_folder("base")


@pytest.fixture
def adapter(base, tmp_path) -> Path:
    """An adapter of `base` without a tokenizer."""
    adapter_of(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    return tmp_path / "adapter"


def load(folder: Path):
    return load_causal_lm(str(folder), load_tokenizer(str(folder)), dtype=torch.float32)


def test_merged_weights_are_free_to_be_trained_and_nothing_is_said(adapter):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lm = load(adapter)
    assert [name for name, parameter in lm.named_parameters() if not parameter.requires_grad] == []


def test_an_adapter_without_a_tokenizer_has_that_of_its_base(adapter, base):
    assert load_tokenizer(str(adapter)).get_vocab() == load_tokenizer(str(base)).get_vocab()
    assert load_tokenizer(str(adapter)).chat_template == load_tokenizer(str(base)).chat_template


def test_an_adapter_of_an_adapter_stands_on_the_merged_one(adapter, tmp_path):
    once = load(adapter)
    expected = logits(adapter_of(once, tmp_path / "second", seed=2))
    change_config(tmp_path / "second", base_model_name_or_path=str(adapter))
    torch.testing.assert_close(logits(load(tmp_path / "second")), expected, rtol=0, atol=1e-5)
    assert (logits(load(adapter)) - expected).abs().max() > 0.1
    assert root_of(str(tmp_path / "second")) == str(tmp_path / "base")


def test_a_base_beside_the_adapter_is_found_from_any_directory(adapter, base, tmp_path, monkeypatch):
    (tmp_path / "else" / "where").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "else" / "where")
    change_config(adapter, base_model_name_or_path="../base")
    assert Path(base_of(str(adapter))).resolve() == base.resolve()
    assert load_config(str(adapter)).model_type == "llama"


def test_a_configuration_beside_an_adapter_makes_it_no_full_model(adapter, base):
    """axolotl leaves the base's config.json there."""
    (adapter / "config.json").write_bytes((base / "config.json").read_bytes())
    assert is_adapter(adapter)
    assert (logits(load(adapter)) - logits(load(base))).abs().max() > 0.1


def test_a_folder_of_both_full_weights_and_an_adapter_is_refused(adapter, base):
    for name in ("config.json", "model.safetensors"):
        (adapter / name).write_bytes((base / name).read_bytes())
    with pytest.raises(InputError, match=r"holds full weights \(model.safetensors\) and an adapter"):
        is_adapter(adapter)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "adapter_config.json: is not JSON"),
        ("{}", "names no base model; write the folder or hub id"),
        ('{"base_model_name_or_path": null}', "names no base model"),
        ('{"base_model_name_or_path": "."}', "names the adapter itself"),
    ],
)
def test_a_configuration_that_names_no_base_is_bad_input(adapter, content, message, monkeypatch):
    monkeypatch.chdir(adapter)
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(InputError, match=message):
        load_config(str(adapter))


def test_adapters_of_each_other_are_bad_input(adapter, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(adapter)}))
    change_config(adapter, base_model_name_or_path=str(tmp_path / "other"))
    with pytest.raises(InputError, match="is an adapter of an adapter of itself"):
        root_of(str(adapter))


def test_weights_that_are_missing_or_of_another_model_are_bad_input(adapter, model_folder, base):
    change_config(adapter, target_modules=["q_proj", "v_proj", "o_proj"])
    with pytest.raises(InputError, match=r"does not fit its base model .*missing adapter keys"):
        load(adapter)
    change_config(
        adapter,
        target_modules=["q_proj", "v_proj"],
        base_model_name_or_path=str(model_folder("wide", hidden_size=64)),
    )
    with pytest.raises(InputError, match=r"does not fit its base model .*wide"):
        load(adapter)
    (adapter / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"adapter_model.safetensors: not a readable adapter"):
        load(adapter)


def test_an_adapter_of_a_classifier_is_no_language_model(adapter):
    change_config(adapter, task_type="SEQ_CLS")
    with pytest.raises(InputError, match="is an adapter of a sequence classifier"):
        load(adapter)

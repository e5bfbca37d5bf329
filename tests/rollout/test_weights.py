"""A policy's weights in a folder for vLLM: against what transformers and peft themselves read and write."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import tensor as T

from easyrlhf.models.lora import LoraSettings, add_lora
from easyrlhf.models.shared_backbone import POLICY, SharedBackbone
from easyrlhf.rollout import vllm_weights
from easyrlhf.rollout.vllm_weights import named_weights, write_adapter, write_weights

IDS = T([[5, 6, 7, 8, 9]])


def in_folder(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder's safetensors files; no name may stand in two of them."""
    found = {}
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        assert not found.keys() & tensors.keys()
        found |= tensors
    return found


def saved(lm, folder: Path) -> dict[str, torch.Tensor]:
    """What transformers' own folder of the model has."""
    lm.save_pretrained(folder)
    return in_folder(folder)


def assert_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2", "gpt-neox", "qwen2"])
def test_a_folder_has_every_weight_and_a_tied_head_besides(tiny_lm, family, tmp_path):
    lm = tiny_lm(family)
    write_weights(lm, tmp_path / "ours")
    found = in_folder(tmp_path / "ours")
    theirs = saved(lm, tmp_path / "theirs")
    tied = lm.config.tie_word_embeddings
    head = "embed_out.weight" if family == "gpt-neox" else "lm_head.weight"
    assert found.keys() - theirs.keys() == ({head} if tied else set())
    assert_equal({name: found[name] for name in theirs}, theirs)
    assert torch.equal(found[head], lm.get_output_embeddings().weight)


def test_weights_that_transformers_keeps_fused_go_out_under_the_names_of_a_folder(tmp_path):
    import transformers as hf

    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    lm = hf.MixtralForCausalLM(hf.MixtralConfig(vocab_size=20, num_local_experts=3, num_key_value_heads=2, **sizes))
    theirs = saved(lm, tmp_path / "theirs")
    assert theirs.keys() != lm.state_dict().keys()
    write_weights(lm, tmp_path / "ours")
    assert_equal(in_folder(tmp_path / "ours"), theirs)


def test_weights_are_cut_into_files_and_none_of_an_earlier_hand_over_stays(tiny_lm, tmp_path, monkeypatch):
    folder, first, second = tmp_path / "a" / "weights", tiny_lm("llama-tied"), tiny_lm("llama-tied", seed=1)
    monkeypatch.setattr(vllm_weights, "SHARD", 10_000)
    write_weights(first, folder)
    files = list(folder.iterdir())
    assert len(files) > 3
    largest = max(tensor.nbytes for tensor in first.state_dict().values())
    assert all(sum(t.nbytes for t in load_file(file).values()) <= max(10_000, largest) for file in files)
    assert_equal(in_folder(folder), dict(first.state_dict()))
    monkeypatch.setattr(vllm_weights, "SHARD", 10**9)
    write_weights(second, folder)
    assert [file.name for file in folder.iterdir()] == ["model.safetensors"]
    assert_equal(in_folder(folder), dict(second.state_dict()))


def test_what_is_named_is_the_model_itself(tiny_lm):
    lm = tiny_lm("llama")
    found = dict(named_weights(lm))
    lm.get_input_embeddings().weight.data += 1.0
    assert torch.equal(found["model.embed_tokens.weight"], lm.get_input_embeddings().weight)


def shaken(lm) -> None:
    """A fresh adapter does nothing until its second matrix is not zero."""
    torch.manual_seed(3)
    for name, parameter in lm.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()


def logits(lm) -> torch.Tensor:
    with torch.no_grad():
        return lm(input_ids=IDS, use_cache=False).logits


def test_an_adapter_folder_is_the_policy_on_its_base(tiny_lm, tmp_path):
    lm = add_lora(tiny_lm("llama"), LoraSettings(r=4, alpha=8, dropout=0.0, target="all-linear")).eval()
    shaken(lm)
    write_adapter(lm, tmp_path)
    again = PeftModel.from_pretrained(tiny_lm("llama"), tmp_path)
    torch.testing.assert_close(logits(again), logits(lm), rtol=0, atol=1e-6)
    assert (logits(again) - logits(tiny_lm("llama"))).abs().max() > 0.1
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 4
    assert all("lora" in name for name in in_folder(tmp_path))  # and nothing of the base
    shaken_more = {name: p for name, p in lm.named_parameters() if "lora_B" in name}
    for parameter in shaken_more.values():
        parameter.data *= -1
    write_adapter(lm, tmp_path)  # in place of the one before
    torch.testing.assert_close(
        logits(PeftModel.from_pretrained(tiny_lm("llama"), tmp_path)), logits(lm), rtol=0, atol=1e-6
    )


def test_of_a_shared_backbone_the_policys_adapter_goes_out_alone(tiny_lm, tmp_path):
    shared = SharedBackbone(add_lora(tiny_lm("llama"), LoraSettings(r=4, alpha=8, dropout=0.0, target="all-linear")))
    shared.add_like("other", POLICY)
    shaken(shared.lora_lm)
    policy, other = (shared.view(name, trained=True) for name in (POLICY, "other"))
    shared.lora_lm.eval()
    expected, another = logits(policy), logits(other)
    write_adapter(policy, tmp_path)  # while the other one is active
    again = PeftModel.from_pretrained(tiny_lm("llama"), tmp_path)
    torch.testing.assert_close(logits(again), expected, rtol=0, atol=1e-6)
    assert (another - expected).abs().max() > 0.1
    assert not (tmp_path / "other").exists()

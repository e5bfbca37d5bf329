"""Loading: dropout, adapters, vocabularies that grew, and models whose logits are not known."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import tensor as T

from easyrlhf.errors import InputError
from easyrlhf.models.load import check_lm_head, check_text_alone, load_causal_lm, load_config
from easyrlhf.models.lora import LoraSettings, add_lora
from easyrlhf.models.parts import logits_of

IDS = T([[5, 6, 7, 8, 9, 10, 11, 12], [13, 14, 15, 16, 17, 18, 19, 20]])
DROPOUTS = {  # every setting of the family that drops something in a language model
    "llama": {"attention_dropout": 0.5},
    "qwen2": {"attention_dropout": 0.5},
    "gpt2": {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5},
    "gpt-neox": {"attention_dropout": 0.5, "hidden_dropout": 0.5},
    "opt": {"dropout": 0.5, "attention_dropout": 0.5},
    "bloom": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "falcon": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "starcoder": {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5},
}


@torch.no_grad()
def logits(lm) -> torch.Tensor:
    """The model's own logits in the mode it is in."""
    return lm(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False).logits


def save_weights(folder, change) -> None:
    """Change a folder's state dict by a function of it."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# --- dropout


@pytest.mark.parametrize("family", DROPOUTS)
def test_a_loaded_model_drops_nothing_even_in_training_mode(model_folder, tokenizer, family):
    folder = str(model_folder(family=family, **DROPOUTS[family]))
    lm = load_causal_lm(folder, tokenizer, dtype=torch.float32).eval()
    still = logits(lm)
    lm.train()
    assert torch.equal(logits(lm), logits(lm))
    torch.testing.assert_close(logits(lm), still, rtol=0, atol=1e-5)

    dropping = load_causal_lm(folder, tokenizer, dtype=torch.float32, dropout=True).train()
    assert (logits(dropping) - logits(dropping)).abs().max() > 0.01


# --- adapters


def trained_adapter(lm, target="all-linear"):
    """A LoRA model whose adapter is not zero any more."""
    torch.manual_seed(1)
    lora = add_lora(lm, LoraSettings(r=4, alpha=8, dropout=0.0, target=target))
    for name, parameter in lora.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2)
    return lora.eval()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_lora_trains_its_adapter_alone_and_is_the_base_when_fresh_or_off(tiny_lm, family):
    base = logits(tiny_lm(family))
    fresh = add_lora(tiny_lm(family), LoraSettings(r=4, alpha=8, dropout=0.0, target="all-linear")).eval()
    trained = {name for name, p in fresh.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_A" in name or "lora_B" in name for name in trained)
    assert torch.equal(logits(fresh), base)

    lora = trained_adapter(tiny_lm(family))
    assert (logits(lora) - base).abs().max() > 0.1
    with lora.disable_adapter():
        assert torch.equal(logits(lora), base)


def test_lora_scales_by_alpha_over_r(tiny_lm):
    lm = tiny_lm()
    before = lm.model.layers[0].self_attn.q_proj.weight.clone()
    lora = trained_adapter(lm, target="q_proj")
    layer = lm.model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = before + 8 / 4 * b @ a
    merged = lora.merge_and_unload().model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-6)


def test_a_lora_target_that_is_not_there_is_bad_input(tiny_lm):
    with pytest.raises(InputError, match=r"--lora_target no_such_proj"):
        add_lora(tiny_lm(), LoraSettings(r=4, alpha=8, dropout=0.0, target="no_such_proj"))


def test_lora_targets_are_those_named(tiny_lm):
    lora = add_lora(tiny_lm(), LoraSettings(r=4, alpha=8, dropout=0.0, target="q_proj, v_proj"))
    hit = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, p in lora.named_parameters() if p.requires_grad}
    assert hit == {"q_proj", "v_proj"}


def test_an_adapter_folder_loads_as_its_base_with_the_adapter_merged(model_folder, tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM

    folder = model_folder()
    lora = trained_adapter(AutoModelForCausalLM.from_pretrained(folder))
    lora.save_pretrained(tmp_path / "adapter")
    loaded = load_causal_lm(str(tmp_path / "adapter"), tokenizer, dtype=torch.float32).eval()
    assert not hasattr(loaded, "peft_config") or not any("lora" in name for name, _ in loaded.named_parameters())
    torch.testing.assert_close(logits(loaded), logits(lora), rtol=0, atol=1e-5)
    base = load_causal_lm(str(folder), tokenizer, dtype=torch.float32).eval()
    assert (logits(loaded) - logits(base)).abs().max() > 0.1


# --- vocabularies and special tokens


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2"])
def test_embeddings_grow_to_the_tokenizer_and_old_tokens_keep_their_logits(model_folder, tokenizer, family):
    small = len(tokenizer) - 3
    folder = str(model_folder(family=family, vocab=small))
    from transformers import AutoModelForCausalLM

    before = logits(AutoModelForCausalLM.from_pretrained(folder).eval())
    lm = load_causal_lm(folder, tokenizer, dtype=torch.float32).eval()
    assert lm.get_input_embeddings().weight.shape[0] == len(tokenizer)
    after = logits(lm)
    assert after.shape[-1] == len(tokenizer)
    torch.testing.assert_close(after[..., :small], before, rtol=0, atol=1e-5)


def test_an_adapter_trained_over_grown_embeddings_loads_again(model_folder, tokenizer, tmp_path):
    """peft keeps the grown embeddings in the adapter; the base has fewer rows."""
    lora = trained_adapter(load_causal_lm(str(model_folder(vocab=len(tokenizer) - 3)), tokenizer, dtype=torch.float32))
    lora.save_pretrained(tmp_path / "adapter")
    loaded = load_causal_lm(str(tmp_path / "adapter"), tokenizer, dtype=torch.float32).eval()
    torch.testing.assert_close(logits(loaded), logits(lora), rtol=0, atol=1e-5)


def test_embeddings_wider_than_the_tokenizer_are_left_alone(model_folder, tokenizer):
    lm = load_causal_lm(str(model_folder(vocab=320)), tokenizer, dtype=torch.float32)
    assert lm.get_input_embeddings().weight.shape[0] == 320


def test_a_loaded_model_has_the_special_tokens_of_the_tokenizer(model_folder, tokenizer):
    lm = load_causal_lm(str(model_folder(eos_token_id=7, pad_token_id=8)), tokenizer, dtype=torch.float32)
    for settings in (lm.config, lm.generation_config):
        assert (settings.pad_token_id, settings.eos_token_id, settings.bos_token_id) == (0, 2, None)


# --- logits


@pytest.mark.parametrize("family", ["gemma2", "cohere", "granite"])
def test_families_that_change_their_logits_in_a_known_way_are_accepted(tiny_lm, family):
    lm = tiny_lm(family)
    check_lm_head(lm, family)
    hidden = lm.base_model(input_ids=IDS, use_cache=False).last_hidden_state
    torch.testing.assert_close(logits_of(lm, hidden), logits(lm), rtol=0, atol=1e-5)


def test_a_family_that_multiplies_its_logits_in_another_way_is_refused(tiny_lm):
    with pytest.raises(InputError, match=r"some/path: FalconH1ForCausalLM changes its logits"):
        check_lm_head(tiny_lm("falcon-h1"), "some/path")


def test_a_model_that_scales_its_logits_by_a_tenth_is_refused_and_keeps_its_mode(tiny_lm, monkeypatch):
    lm = tiny_lm().train()
    check_lm_head(lm, "path")  # as it is, it passes
    assert lm.training
    forward = type(lm).forward

    def scaled(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        out.logits = out.logits * 1.1
        return out

    monkeypatch.setattr(type(lm), "forward", scaled)
    with pytest.raises(InputError, match="changes its logits"):
        check_lm_head(lm, "path")


# --- what cannot be loaded


def test_a_folder_without_config_is_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"holds no config\.json, so it is no model"):
        load_config(str(tmp_path))


def test_a_truncated_weight_file_is_bad_input(model_folder, tokenizer):
    folder = model_folder()
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"model\.safetensors: the model cannot be loaded"):
        load_causal_lm(str(folder), tokenizer, dtype=torch.float32)


def test_weights_that_are_missing_are_not_made_up(model_folder, tokenizer):
    folder = model_folder()
    save_weights(folder, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(InputError, match="up_proj"):
        load_causal_lm(str(folder), tokenizer, dtype=torch.float32)


def test_weights_of_another_shape_are_bad_input(model_folder, tokenizer):
    folder = model_folder()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(InputError, match="the model cannot be loaded"):
        load_causal_lm(str(folder), tokenizer, dtype=torch.float32)


@pytest.mark.parametrize("near", [True, False])
def test_a_missing_folder_beside_others_is_no_hub_id(tmp_path, monkeypatch, near):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / ("base" if near else "something")).mkdir(parents=True)
    said = "no such folder; " + ("did you mean models/base?" if near else "give a folder with a config.json")
    with pytest.raises(InputError, match=re.escape(f"models/bose: {said}")):
        load_config("models/bose")


# --- models that are more than language models

TEXT = {"vocab_size": 280, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}
VISION = {
    "Gemma3Config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    "Qwen3_5Config": {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32},
}


@pytest.mark.parametrize("name", VISION)
def test_a_model_that_sees_is_refused_by_name_and_its_language_model_is_not(name, tmp_path):
    import transformers

    config = getattr(transformers, name)(text_config=TEXT, vision_config=VISION[name])
    config.architectures = [name.replace("Config", "ForConditionalGeneration")]
    config.save_pretrained(tmp_path / "sees")
    with pytest.raises(
        InputError, match=rf"--model .*sees: {config.architectures[0]} .* \(vision_config in config.json\)"
    ):
        check_text_alone("--model", str(tmp_path / "sees"))
    config.get_text_config().save_pretrained(tmp_path / "text")
    check_text_alone("--model", str(tmp_path / "text"))

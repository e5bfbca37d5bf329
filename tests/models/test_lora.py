"""LoRA beside whole modules and rows of new tokens: what is trained, and that every form saved is the same model."""

import warnings
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from torch import tensor as T
from transformers import AutoModelForCausalLM

from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.errors import InputError
from easyrlhf.models.folder import save_lm
from easyrlhf.models.load import load_causal_lm, new_tokens
from easyrlhf.models.lora import LoraSettings, add_lora
from easyrlhf.models.parents import base_of
from easyrlhf.models.value_head import ScalarModel, new_head

NEW = [280, 281, 282]  # the control tokens of llama3 behind the 280 of the tokenizer
IDS = T([[5, 6, 280, 7, 281, 8, 282, 9]])


@torch.no_grad()
def logits(lm) -> torch.Tensor:
    return lm.eval()(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False).logits


@pytest.fixture
def lora_of(model_folder, tokenizer):
    """lora_of(family, target, modules_to_save, template, vocab) -> (LoRA model, shaken, its tokenizer, base folder)."""

    def make(family="llama", target="all-linear", modules_to_save=None, template="llama3", vocab=None):
        folder = model_folder("base", family=family, vocab=vocab)
        known = load_tokenizer(str(folder), chat_template=template)
        lm = load_causal_lm(str(folder), known, dtype=torch.float32)
        settings = LoraSettings(r=4, alpha=8, dropout=0.0, target=target, modules_to_save=modules_to_save)
        lora = add_lora(lm, settings, new_tokens(str(folder), known))
        torch.manual_seed(1)
        for parameter in lora.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn_like(parameter)
        return lora, known, folder

    return make


def trained_beside(lora) -> set[str]:
    """Names of what is trained and belongs to no layer's adapter, without what peft puts around them."""
    names = {name for name, parameter in lora.named_parameters() if parameter.requires_grad and ".lora_" not in name}
    return {name.removeprefix("base_model.model.").removesuffix(".weight").removesuffix(".default") for name in names}


def saved_beside(folder: Path) -> set[str]:
    """Names of an adapter's tensors that are none of LoRA's."""
    names = load_file(folder / "adapter_model.safetensors")
    return {name.removeprefix("base_model.model.") for name in names if ".lora_" not in name}


ROWS, WHOLE = "token_adapter.trainable_tokens_delta", "modules_to_save"
CASES = {
    "rows of both": (("llama",), {f"model.embed_tokens.{ROWS}", f"lm_head.{ROWS}"}),
    "rows where there is room": (
        ("llama", "all-linear", None, "llama3", 320),
        {f"model.embed_tokens.{ROWS}", f"lm_head.{ROWS}"},
    ),
    "rows of tied": (("llama-tied",), {f"model.embed_tokens.{ROWS}"}),
    "rows of gpt2": (("gpt2",), {f"transformer.wte.{ROWS}"}),
    "embeddings whole": (("llama", "q_proj", "embed_tokens"), {f"model.embed_tokens.{WHOLE}", f"lm_head.{ROWS}"}),
    "head whole": (("llama", "q_proj", "lm_head"), {f"model.embed_tokens.{ROWS}", f"lm_head.{WHOLE}"}),
    "tied whole": (("llama-tied", "q_proj", "embed_tokens"), {f"model.embed_tokens.{WHOLE}"}),
    "tied whole, by the head": (("llama-tied", "q_proj", "lm_head"), {f"model.embed_tokens.{WHOLE}"}),
    "gpt2 whole": (("gpt2", "c_attn", "wte"), {f"transformer.wte.{WHOLE}"}),
    "an adapter of the embeddings": (("llama", "embed_tokens,q_proj"), {f"lm_head.{ROWS}"}),
    "an adapter of the head": (("llama", "q_proj,lm_head"), {f"model.embed_tokens.{ROWS}"}),
}


@pytest.mark.parametrize(("how", "expected"), CASES.values(), ids=CASES)
def test_new_tokens_are_trained_and_merged_root_adapter_and_peft_say_the_same(lora_of, tmp_path, how, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lora, known, folder = lora_of(*how)
        assert trained_beside(lora) == expected
        before = logits(lora)
        save_lm(tmp_path / "out", lora, known)
        again = load_tokenizer(str(tmp_path / "out" / "adapter"))
        loaded = load_causal_lm(str(tmp_path / "out" / "adapter"), again, dtype=torch.float32)
    assert again.get_vocab() == known.get_vocab()
    assert again.chat_template == known.chat_template
    root = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for found in (root, loaded, AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out" / "adapter")):
        torch.testing.assert_close(logits(found), before, rtol=0, atol=5e-5)
    assert base_of(str(tmp_path / "out" / "adapter")) == str(folder.resolve())


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2"])
def test_where_nothing_is_new_an_adapter_folder_holds_the_adapter_alone(lora_of, tmp_path, family):
    lora, known, _ = lora_of(family, template=None)
    assert trained_beside(lora) == set()
    save_lm(tmp_path / "out", lora, known)
    assert saved_beside(tmp_path / "out" / "adapter") == set()


@pytest.mark.parametrize("target", ["embed_tokens,q_proj", "q_proj,lm_head"])
def test_new_tokens_of_tied_embeddings_that_have_an_adapter_are_refused(lora_of, target):
    with pytest.raises(
        InputError, match=r"3 tokens that the model has never seen, .* add --modules_to_save embed_tokens"
    ):
        lora_of("llama-tied", target)


def test_rows_of_a_head_with_a_bias_are_refused(model_folder, tokenizer):
    lm = load_causal_lm(str(model_folder()), tokenizer, dtype=torch.float32)
    lm.lm_head.bias = torch.nn.Parameter(torch.zeros(len(tokenizer)))
    with pytest.raises(InputError, match=r"rows of its layer lm_head \(Linear\) .* add --modules_to_save lm_head"):
        add_lora(lm, LoraSettings(r=4, alpha=8, dropout=0.0, target="q_proj"), new_tokens=[5])


def test_a_module_that_is_not_there_is_bad_input(tiny_lm):
    with pytest.raises(InputError, match=r"--modules_to_save embeddings: the model has no module .* embed_tokens, "):
        add_lora(tiny_lm(), LoraSettings(r=4, alpha=8, dropout=0.0, target="q_proj", modules_to_save="norm,embeddings"))


def test_the_head_of_a_scalar_model_is_frozen_and_tied_rows_are_not(lora_of):
    for family, trained in (("llama", {f"model.embed_tokens.{ROWS}"}), ("llama-tied", {f"model.embed_tokens.{ROWS}"})):
        lora, _, _ = lora_of(family)
        model = ScalarModel(lora, new_head(lora))
        assert trained_beside(model.lm) == trained


def test_new_tokens_are_those_that_the_model_has_no_row_for_or_that_its_tokenizer_lacks(model_folder, tokenizer):
    folder = str(model_folder(vocab=278))  # the last two tokens of the tokenizer have no row
    assert new_tokens(folder, load_tokenizer(folder)) == [278, 279]
    assert new_tokens(folder, load_tokenizer(folder, chat_template="llama3")) == [278, 279, *NEW]


def test_a_token_for_padding_alone_is_not_to_be_learned(model_folder, tokenizer):
    folder = str(model_folder())
    known = load_tokenizer(folder)
    known.add_special_tokens({"pad_token": "<|padding|>"})
    assert new_tokens(folder, known) == []

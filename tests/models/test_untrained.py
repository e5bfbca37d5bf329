"""Control tokens whose rows say nothing: found in the files of a model, by the template that writes them."""

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from easyrlhf.models.untrained import control_tokens, untrained_tokens

START, END = 1, 2  # <|im_start|>, <|im_end|>


def asked(folder) -> list[int]:
    """What a folder's own template and weights give."""
    return untrained_tokens(
        str(folder), AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    )


@pytest.fixture
def changed(model_folder):
    """changed(family, layer, rows) -> folder of a model some of whose rows are 0 ("zero"), or the mean ("mean")."""

    def make(family: str, layer: str, rows: dict[int, str], dtype=torch.float32):
        folder = model_folder(family=family)
        lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        weight = getattr(lm, f"get_{layer}_embeddings")().weight.data
        mean = weight.mean(0)
        for row, what in rows.items():
            weight[row] = mean + 1e-6 * torch.randn_like(mean) if what == "mean" else 0.0
        lm.to(dtype).save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize(
    "family, layer", [("llama", "input"), ("llama", "output"), ("llama-tied", "input"), ("gpt2", "input")]
)
@pytest.mark.parametrize("what", ["zero", "mean"])
def test_rows_that_say_nothing_are_found(changed, family, layer, what):
    assert asked(changed(family, layer, {START: what, END: what}, torch.bfloat16)) == [START, END]
    assert asked(changed(family, layer, {END: what})) == [END]


def test_names_without_that_of_the_outer_module_are_read(changed):
    """As older files of GPT-2 have them."""
    folder = changed("gpt2", "input", {END: "zero"})
    lm = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    save_file({"wte.weight": lm.get_input_embeddings().weight.data.clone()}, folder / "model.safetensors")
    assert untrained_tokens(str(folder), AutoTokenizer.from_pretrained(folder), lm) == [END]


def test_other_rows_are_no_matter(changed, tokenizer, tiny_lm):
    """The token for padding and one that no template writes are 0; the rest is random, as trained ones are."""
    assert control_tokens(tokenizer) == [START, END]
    folder = changed("llama", "input", {0: "zero", 7: "zero"})
    assert asked(folder) == []
    other, lm = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    other.add_tokens(["<|new|>"], special_tokens=True)
    other.chat_template = "<|new|>"  # it has no row
    assert untrained_tokens(str(folder), other, lm) == []
    assert untrained_tokens("hub/model", tokenizer, tiny_lm()) == []

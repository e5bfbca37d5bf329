"""Models whose weights stay in their files: what is left there, what is read of it, and when a model is read whole."""

import json
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from easyrlhf.errors import InputError
from easyrlhf.models.load import load_causal_lm
from easyrlhf.models.lora import LoraSettings, add_lora
from easyrlhf.models.unread import StoredWeight, once_read, read_now, taken_unread
from easyrlhf.models.value_head import new_head

CPU = torch.device("cpu")


def load(folder, tokenizer, **how):
    return load_causal_lm(str(folder), tokenizer, **{"dtype": torch.float32, "spread_on": CPU} | how)


def rewrite(folder, change) -> None:
    """Change a folder's weights by a function of them."""
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


def test_an_unread_model_has_shapes_and_takes_one_number_a_weight(model_folder, tokenizer):
    folder = model_folder()
    lm, whole = load(folder, tokenizer), load(folder, tokenizer, spread_on=None)
    assert lm.unread.whole == ""
    assert {n: p.shape for n, p in lm.named_parameters()} == {n: p.shape for n, p in whole.named_parameters()}
    assert [p.untyped_storage().nbytes() for p in lm.parameters()] == [4] * len(list(whole.parameters()))
    assert len(lm.unread.places) == len(list(whole.parameters()))
    assert {n: b.tolist() for n, b in lm.named_buffers()} == {n: b.tolist() for n, b in whole.named_buffers()}
    assert lm.generation_config.to_dict() == whole.generation_config.to_dict()
    assert lm.config.to_dict() == whole.config.to_dict()


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_read_after_all_is_what_the_files_hold(model_folder, tokenizer, tied):
    folder = model_folder(tie_word_embeddings=tied)
    lm, whole = load(folder, tokenizer, dtype=torch.bfloat16), load(folder, tokenizer, spread_on=None)
    assert lm.unread.whole == ""
    read_now(lm, "because")
    assert (lm.get_output_embeddings().weight is lm.get_input_embeddings().weight) == tied
    assert (lm.unread.places, lm.unread.whole) == ({}, "because")
    found = dict(lm.named_parameters())
    assert all(torch.equal(found[name], weight.bfloat16()) for name, weight in whole.named_parameters())


def test_rows_are_read_where_they_are(tmp_path):
    save_file({"a": torch.arange(12.0).view(6, 2)}, tmp_path / "file.safetensors")
    place = StoredWeight(tmp_path / "file.safetensors", "a")
    assert place.shape() == (6, 2)
    assert place.rows(2, 2).tolist() == [[4.0, 5.0], [6.0, 7.0]]
    assert place.rows(6, 0).shape == (0, 2)


def test_weights_under_the_names_of_the_backbone_alone_are_found(model_folder, tokenizer):
    folder = model_folder(tie_word_embeddings=True)
    rewrite(folder, lambda weights: {name.removeprefix("model."): tensor for name, tensor in weights.items()})
    lm = load(folder, tokenizer)
    assert {place.name for place in lm.unread.places.values()} == set(load_file(folder / "model.safetensors"))


def grown(folder, tokenizer):
    tokenizer.add_tokens([f"<new-{number}>" for number in range(1000)])


def doubled(folder, tokenizer):
    rewrite(folder, lambda weights: weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()})


def pickled(folder, tokenizer):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    "change, reason",
    [
        (grown, "its embeddings grow by the tokenizer's new tokens"),
        (doubled, "model.embed_tokens.weight is 2 times in its files"),
        (pickled, "it has no safetensors files"),
    ],
)
def test_what_cannot_be_read_part_by_part_is_read_whole_and_says_why(model_folder, tokenizer, change, reason):
    folder, own = model_folder(tie_word_embeddings=True), deepcopy(tokenizer)
    change(folder, own)
    lm = load(folder, own)
    assert (lm.unread.whole, lm.unread.places) == (reason, {})
    assert all(p.is_contiguous() and p.untyped_storage().nbytes() >= p.nbytes for p in lm.parameters())


def without_a_norm(weights):
    return {name: tensor for name, tensor in weights.items() if name != "model.norm.weight"}


def with_a_short_norm(weights):
    return weights | {"model.norm.weight": weights["model.norm.weight"][:-1].clone()}


@pytest.mark.parametrize("change", [without_a_norm, with_a_short_norm])
def test_weights_that_are_missing_or_misshaped_are_refused_as_without_sharding(model_folder, tokenizer, change):
    folder, said = model_folder(), []
    rewrite(folder, change)
    for spread_on in (None, CPU):
        with pytest.raises(InputError) as caught:
            load(folder, tokenizer, spread_on=spread_on)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_a_damaged_index_is_refused_as_without_sharding(model_folder, tokenizer):
    folder, said = model_folder(), []
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for spread_on in (None, CPU):
        with pytest.raises(InputError) as caught:
            load(folder, tokenizer, spread_on=spread_on)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_adapters_and_heads_on_an_unread_model_are_real_and_drawn_alike(model_folder, tokenizer):
    folder, found = model_folder(), []
    for spread_on in (None, CPU):
        torch.manual_seed(7)
        lm = load(folder, tokenizer, spread_on=spread_on)
        lora = add_lora(lm, LoraSettings(r=4, alpha=8, dropout=0.0, target="all-linear"))
        found.append({n: p for n, p in lora.named_parameters() if ".lora_" in n} | {"head": new_head(lora).weight})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], weight) for name, weight in found[1].items())


def test_checks_wait_for_the_weights_of_an_unread_model_alone(model_folder, tokenizer):
    said = []
    once_read(load(model_folder(), tokenizer, spread_on=None), lambda: said.append("at once"))
    lm = load(model_folder(), tokenizer)
    once_read(lm, lambda: said.append("later"))
    assert said == ["at once"]
    waiting = taken_unread(lm)
    assert len(waiting.checks) == 2  # of the head, and this one
    waiting.checks[1]()
    assert said == ["at once", "later"]
    assert not hasattr(lm, "unread")


def test_nothing_waits_for_a_module_that_is_no_unread_model():
    waiting = taken_unread(nn.Linear(2, 2))
    assert (waiting.places, waiting.checks, waiting.whole) == ({}, [], "")

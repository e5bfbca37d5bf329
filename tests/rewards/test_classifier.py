"""Sequence classifiers as reward models: the score is transformers' own, and nothing is guessed."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import tensor as T
from transformers import AutoModelForSequenceClassification

from easyrlhf.errors import InputError
from easyrlhf.models.folder import load_scalar_model
from easyrlhf.models.sequence_classifier import check_classifier, is_classifier

ROWS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14, 2]]


@pytest.fixture
def classifier(tmp_path, tiny_lm, tokenizer):
    """classifier(family, **config) -> folder of a random sequence classifier that fits the ChatML tokenizer."""

    def make(family: str = "llama", num_labels: int = 1, **changed) -> Path:
        config = tiny_lm(family, vocab=len(tokenizer), **changed).config
        config.num_labels = num_labels
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = AutoModelForSequenceClassification.from_config(config)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        folder = tmp_path / family
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


def change(folder: Path, edit) -> Path:
    """Rewrite the tensors of a folder."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@torch.no_grad()
def score(folder: Path, tokenizer) -> list[float]:
    """Scores of ROWS as a reward model gives them."""
    model = load_scalar_model(str(folder), tokenizer, dtype=torch.float32).eval()
    width = max(map(len, ROWS))
    ids = T([row + [0] * (width - len(row)) for row in ROWS])
    return model.scores(ids, T([len(row) for row in ROWS])).tolist()


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt-neox", "gpt2", "gemma2"])
def test_scores_are_the_logits_of_transformers(classifier, tokenizer, family):
    folder = classifier(family)
    assert is_classifier(str(folder))
    check_classifier(str(folder))
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    expected = [theirs(input_ids=T([row])).logits.item() for row in ROWS]
    assert score(folder, tokenizer) == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 3) for value in expected}) == 3


def test_a_bias_of_the_head_counts(classifier, tokenizer):
    folder = classifier()
    before = score(folder, tokenizer)
    change(folder, lambda tensors: tensors.update({"score.bias": T([0.75])}))
    check_classifier(str(folder))
    assert score(folder, tokenizer) == pytest.approx([value + 0.75 for value in before], abs=1e-6)


def test_a_causal_language_model_is_none(model_folder):
    assert not is_classifier(str(model_folder()))


def test_several_labels_are_refused(classifier):
    with pytest.raises(InputError, match=r"its head gives 3 numbers \(num_labels in config.json\)"):
        check_classifier(str(classifier(num_labels=3)))


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda t: t.pop("score.weight"), "has no score.weight"),
        (
            lambda t: t.update({"score.weight": torch.zeros(1, 7)}),
            r"weight \[1, 7\]; .*score.weight \[1, 32\]",
        ),
        (lambda t: t.update({"score.weight": torch.zeros(2, 32)}), r"holds score.weight \[2, 32\]"),
        (lambda t: t.update({"score.bias": torch.zeros(2)}), r"holds score.bias \[2\]"),
        (lambda t: t.update({"score.dense.weight": torch.zeros(4, 4)}), r"holds score.dense.weight \[4, 4\]"),
        (lambda t: t.update({"classifier.weight": t.pop("score.weight")}), r"holds classifier.weight \[1, 32\]"),
    ],
)
def test_a_head_that_does_not_fit_is_refused_before_loading(classifier, edit, message):
    with pytest.raises(InputError, match=message):
        check_classifier(str(change(classifier(), edit)))


def test_a_file_that_cannot_be_read_is_refused_before_loading(classifier):
    folder = classifier()
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"model.safetensors: not a readable safetensors file"):
        check_classifier(str(folder))


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "missing weights model.layers.1.mlp.up_proj.weight"),
        (lambda t: t.update({"lm_head.weight": torch.zeros(4, 4)}), "unexpected weights lm_head.weight"),
        (lambda t: t.update({"model.norm.weight": torch.zeros(7)}), "cannot be loaded"),
        (lambda t: t["score.weight"].fill_(torch.nan), "scores four tokens with nan; its weights are damaged"),
    ],
    ids=["missing", "extra", "shape", "nan"],
)
def test_a_backbone_that_is_not_exactly_there_is_refused(classifier, tokenizer, edit, message):
    with pytest.raises(InputError, match=message):
        load_scalar_model(str(change(classifier(), edit)), tokenizer, dtype=torch.float32)


def test_a_head_of_another_kind_is_refused(tmp_path, tokenizer):
    """BERT reads all tokens at once and scores a pooled state by `classifier`."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"holds classifier.bias \[1\], classifier.weight \[1, 32\]"):
        check_classifier(str(tmp_path))
    with pytest.raises(InputError, match="BertForSequenceClassification does not read its score off the last token"):
        load_scalar_model(str(tmp_path), tokenizer, dtype=torch.float32)


def test_a_tokenizer_with_more_tokens_than_embeddings_is_made_room_for(classifier, tokenizer):
    folder = classifier()
    config = json.loads((folder / "config.json").read_text())
    assert config["vocab_size"] == len(tokenizer)
    before = score(folder, tokenizer)
    import copy

    grown = copy.deepcopy(tokenizer)
    grown.add_tokens(["<|new|>"])
    assert score(folder, grown) == before


@pytest.fixture
def adapter(model_folder, tmp_path):
    """adapter(**LoraConfig's) -> folder of a classifier's adapter on a causal language model, as TRL leaves it."""

    def make(**settings):
        base = AutoModelForSequenceClassification.from_pretrained(model_folder("base"), num_labels=1)
        config = {"r": 4, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["score"], "task_type": "SEQ_CLS"}
        lora = get_peft_model(base, LoraConfig(**config | settings))
        torch.manual_seed(2)
        for parameter in lora.parameters():
            if parameter.requires_grad:
                parameter.data += 0.2 * torch.randn_like(parameter)
        lora.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter", lora.eval()

    return make


@torch.no_grad()
def test_an_adapter_of_a_classifier_scores_as_peft_says(adapter, tokenizer):
    folder, lora = adapter()
    assert is_classifier(str(folder))
    check_classifier(str(folder))
    expected = [lora(input_ids=T([row])).logits.item() for row in ROWS]
    assert score(folder, tokenizer) == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 3) for value in expected}) == 3


def test_an_adapter_of_a_classifier_without_its_head_is_refused(adapter):
    folder, _ = adapter()
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name: t for name, t in tensors.items() if "score" not in name}, folder / "adapter_model.safetensors")
    with pytest.raises(
        InputError, match=r"a sequence classifier with no score.weight, where .* \[1, 32\] trained beside"
    ):
        check_classifier(str(folder))

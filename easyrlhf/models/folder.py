"""Model folders: written whole or not at all, and proven by reading them back."""

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from easyrlhf.errors import InputError, RunError
from easyrlhf.files import drafted_in
from easyrlhf.models.adapters import quietly
from easyrlhf.models.four_bit import holds_four_bit, in_full
from easyrlhf.models.load import load_causal_lm, load_config
from easyrlhf.models.parents import ADAPTER
from easyrlhf.models.parts import evaluating, plain_lm
from easyrlhf.models.sequence_classifier import is_classifier, load_classifier, read_backbone
from easyrlhf.models.unread import Unread
from easyrlhf.models.value_head import HEAD_FILE, ScalarModel, load_head, save_head

PROBES = (
    ("Name a colour.", "Blue."),
    (
        "Please tell me, in two sentences, why the sky looks blue.",
        "Air scatters blue light most. So it reaches us.",
    ),
)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


def save_lm(folder: Path, lm: nn.Module, tokenizer, head: nn.Linear | None = None) -> PreTrainedModel:
    """Write a causal language model, its tokenizer and perhaps its value head as a folder of transformers.

    A LoRA model is merged: the root holds full weights, adapter/ the adapter with the same tokenizer and head. Files
    are written beside and moved into place one by one. Returns the (merged) model; that of one in 4 bits is in full
    precision, and on the CPU.
    Raises RunError when the disk does not take it.
    """
    with drafted_in(folder, ".final") as draft:
        return write_lm(draft, lm, tokenizer, head)


def write_lm(folder: Path, lm: nn.Module, tokenizer, head: nn.Linear | None) -> PreTrainedModel:
    """Write the files of save_lm into a new folder; returns the (merged) model."""
    folder.mkdir(parents=True)
    if holds_four_bit(lm):
        lm = in_full(lm)
    if hasattr(lm, "merge_and_unload"):
        save_adapter(folder / ADAPTER, lm, tokenizer, head)
        with quietly():
            lm = lm.merge_and_unload()
    if lm.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers imports DeepSpeed to save, which warns else
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if head is not None:
        save_head(head, folder)
    return lm


def save_adapter(folder: Path, lora: nn.Module, tokenizer, head: nn.Linear | None = None) -> None:
    """Write the adapter of a LoRA model so that it loads from any directory, with its tokenizer and perhaps its head.

    The embeddings are not in it, but for those that grew while the adapter itself changes them: where it does not, rows
    that are new are trained on their own and come along.
    """
    from peft.tuners.lora import LoraLayer

    lm, base = lora.get_base_model(), lora.peft_config["default"].base_model_name_or_path
    layers = (lm.get_input_embeddings(), lm.get_output_embeddings())
    changed = any(isinstance(layer, LoraLayer) for layer in layers)
    grown = bool(base) and layers[0].weight.shape[0] > load_config(base).get_text_config().vocab_size
    with quietly():
        lora.save_pretrained(folder, save_embedding_layers=changed and grown)
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty form; the stage writes its own
    tokenizer.save_pretrained(folder)
    if head is not None:
        save_head(head, folder)


def load_scalar_model(folder: str, tokenizer, *, dtype: torch.dtype, **how) -> ScalarModel:
    """A reward or value model from its folder, of either kind; `how` goes to load_causal_lm or load_classifier.

    Raises InputError when the backbone or the head is not exactly there.
    """
    if is_classifier(folder, trust_remote_code=how.get("trust_remote_code", False)):
        spread_on = how.pop("spread_on", None)
        model = ScalarModel(*load_classifier(folder, tokenizer, dtype=dtype, **how))
        if spread_on is not None:
            model.lm.unread = Unread(whole="it is a sequence classifier")
        return model
    lm = load_causal_lm(folder, tokenizer, dtype=dtype, read=read_backbone, **how)
    return ScalarModel(lm, load_head(folder, lm))


def probe_ids(renderer) -> list[list[int]]:
    """Token ids of the two probe texts, a question with its answer each; plain text where there is no template."""
    pairs: list = list(PROBES)
    if renderer.tokenizer.chat_template:
        pairs = [([{"role": "user", "content": q}], [{"role": "assistant", "content": a}]) for q, a in PROBES]
    return [renderer.sequence(*pair) for pair in pairs]


@torch.no_grad()
def probe(model: ScalarModel, ids: list[list[int]]) -> list[dict]:
    """Scores of the probe texts, for stage.json: [{"input_ids": […], "score": s}, …]."""
    device = model.head.weight.device
    with evaluating(model):
        scores = [
            model.scores(torch.tensor([row], device=device), torch.tensor([len(row)], device=device)).item()
            for row in ids
        ]
    return [{"input_ids": row, "score": score} for row, score in zip(ids, scores, strict=True)]


def check_probes(model: ScalarModel, probes: list[dict], folder: Path | str, dtype: torch.dtype) -> None:
    """Raise InputError unless the model scores the probe texts as stage.json says it did when it was saved."""
    if not _are_probes(probes, plain_lm(model.lm).config.get_text_config().vocab_size):
        raise InputError(f"{folder}: the key 'probes' of its stage.json is not what a stage writes; restore the file")
    found = probe(model, [entry["input_ids"] for entry in probes])
    for then, now in zip(probes, found, strict=True):
        if not abs(then["score"] - now["score"]) <= TOLERANCE[dtype] * max(1.0, abs(then["score"])):  # nan fails too
            raise InputError(
                f"{folder}: scores a probe text {now['score']:.6f}, but scored it {then['score']:.6f} when it was "
                f"saved: its weights or {HEAD_FILE} were changed since. Restore the folder, or train it again"
            )


def _are_probes(probes: Any, vocab_size: int) -> bool:
    """Whether this is what probe gives for a model of so many tokens: a file that was edited may hold anything."""
    return isinstance(probes, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("score"), float | int)
        and math.isfinite(entry["score"])
        and isinstance(entry.get("input_ids"), list)
        and entry["input_ids"]
        and all(type(token) is int and 0 <= token < vocab_size for token in entry["input_ids"])
        for entry in probes
    )


def prove_folder(folder: Path, probes: list[dict], tokenizer, device: torch.device, dtype: torch.dtype, **how) -> None:
    """Read a scalar model's folder back and raise RunError unless it scores the probes as the model in memory did.

    how  goes to load_scalar_model
    """
    try:
        again = load_scalar_model(str(folder), tokenizer, dtype=dtype, **how).to(device)
        check_probes(again, probes, folder, dtype)
    except InputError as error:
        raise RunError(f"the saved model is not the trained one. {error}") from error

"""Log-probabilities under the reference: computed once before training, kept on disk, found again by content."""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from easyrlhf.data.batches import join, micro_batches
from easyrlhf.models.load import evaluating, plain_lm
from easyrlhf.models.logprobs import token_logprobs
from easyrlhf.report.console import Console

Row = dict[str, Any]
Pair = tuple[list[int], list[int]]  # ids of a prompt and of a completion

CHUNK = 1024  # rows in memory at a time
UNTOLD = {"_name_or_path", "transformers_version"}  # of a configuration: they change no number


class Joined:
    """Token rows with further columns beside them.

    rows     token rows on disk
    partner  column of ids: each row also has, as other_ids, those of the row that its column `other` numbers
    numbers  name → [N], one number a row
    """

    def __init__(self, rows: Dataset, partner: str | None = None):
        self.rows, self.partner = rows, partner
        self.numbers: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str) -> Any:
        """A row with its numbers, or a whole column."""
        if isinstance(key, str):
            return self.numbers[key] if key in self.numbers else self.rows[key]
        row = self.rows[key] | {name: float(column[key]) for name, column in self.numbers.items()}
        return row | {"other_ids": self.rows[row["other"]][self.partner]} if self.partner else row


def completion_logprobs(lm: nn.Module, pairs: list[Pair], pad_id: int, device: torch.device) -> Tensor:
    """Log-probability of each completion given its prompt, summed over its tokens.  [N]"""
    prompts, completions = zip(*pairs, strict=True)
    input_ids, mask = join(list(prompts), list(completions), pad_id)
    flat = token_logprobs(lm, input_ids.to(device), mask.to(device))
    lengths = torch.tensor([len(completion) for completion in completions], device=device)
    rows = torch.arange(len(pairs), device=device).repeat_interleave(lengths)
    return flat.new_zeros(len(pairs)).index_add(0, rows, flat)


@torch.no_grad()
def all_logprobs(lm: nn.Module, pairs: list[Pair], pad_id: int, budget: int, device: torch.device) -> np.ndarray:
    """completion_logprobs of many pairs in micro-batches, dropout off.  [N]"""
    found = np.zeros(len(pairs))
    with evaluating(lm):
        for group in micro_batches([len(prompt) + len(completion) for prompt, completion in pairs], budget):
            found[group] = completion_logprobs(lm, [pairs[i] for i in group], pad_id, device).double().cpu()
    return found


def reference_columns(
    lm: nn.Module,
    rows: Joined,
    numbers: np.ndarray,
    pairs_of: dict[str, Callable[[Row], Pair]],
    pad_id: int,
    budget: int,
    device: torch.device,
    console: Console,
) -> dict[str, np.ndarray]:
    """Log-probabilities of rows' completions under the reference, from disk when they were computed before.

    lm        the reference; an adapter that it has is off
    numbers   [n] the rows that are needed
    pairs_of  column → what it is computed of
    returns   column → [N] float64, NaN where a row is not needed
    """
    file = cache_folder() / f"{fingerprint(lm, rows, numbers, pairs_of)}.safetensors"
    found = read_columns(file)
    if found is None:
        with adapter_off(lm), console.progress(len(numbers), unit="row") as progress:
            found = {name: np.zeros(len(numbers)) for name in pairs_of}
            for start in range(0, len(numbers), CHUNK):
                part = [rows[int(i)] for i in numbers[start : start + CHUNK]]
                for name, pair_of in pairs_of.items():
                    pairs = [pair_of(row) for row in part]
                    found[name][start : start + CHUNK] = all_logprobs(lm, pairs, pad_id, budget, device)
                for _ in part:
                    progress.advance()
        keep_columns(found, file, console)
    columns = {name: np.full(len(rows), np.nan) for name in found}
    for name, values in found.items():
        columns[name][numbers] = values
    return columns


def read_columns(file: Path) -> dict[str, np.ndarray] | None:
    """What keep_columns wrote; None where nothing is, or nothing that can be read."""
    try:
        return load_file(file)
    except (OSError, SafetensorError):
        return None


def keep_columns(columns: dict[str, np.ndarray], file: Path, console: Console) -> None:
    """Write columns beside their place and rename them: they are never half there."""
    draft = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(columns, draft)
        draft.replace(file)
    except (OSError, SafetensorError) as error:
        console.warn(
            f"{file.parent}: the reference's log-probabilities cannot be kept there ({error}); the next run computes "
            "them anew. Set EASYRLHF_CACHE to a folder that can be written"
        )


def cache_folder() -> Path:
    """Where reference log-probabilities are kept: $EASYRLHF_CACHE, else ~/.cache/easyrlhf."""
    return Path(os.environ.get("EASYRLHF_CACHE", Path.home() / ".cache" / "easyrlhf")) / "reference"


def fingerprint(lm: nn.Module, rows: Joined, numbers: np.ndarray, pairs_of: dict[str, Callable[[Row], Pair]]) -> str:
    """Hash of the model and of every token that it is asked about: what is found by it cannot be stale."""
    digest = hashlib.blake2b(digest_size=20)
    config = {name: value for name, value in plain_lm(lm).config.to_dict().items() if name not in UNTOLD}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in own_weights(lm):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    for row in (rows[int(i)] for i in numbers):
        for name, pair_of in pairs_of.items():
            for ids in pair_of(row):
                digest.update(f"{name} {len(ids)}".encode() + np.asarray(ids, dtype="<i4").tobytes())
    return digest.hexdigest()


def own_weights(lm: nn.Module) -> list[tuple[str, Tensor]]:
    """Names and tensors of a language model, named alike with and without an adapter, whose own are left out."""
    weights = plain_lm(lm).state_dict().items()
    own = [(name.replace(".base_layer.", "."), tensor) for name, tensor in weights if ".lora_" not in name]
    return sorted(own, key=lambda weight: weight[0])


def adapter_off(lm: nn.Module) -> AbstractContextManager:
    """The model without its adapter for a while, if it has one."""
    return lm.disable_adapter() if isinstance(lm, PeftModel) else nullcontext()

"""Log-probabilities under the reference: computed once before training, kept on disk, found again by content."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from easyrlhf.data.batches import join, micro_batches
from easyrlhf.models.load import evaluating
from easyrlhf.models.logprobs import token_logprobs

Row = dict[str, Any]
Pair = tuple[list[int], list[int]]  # ids of a prompt and of a completion


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
    pairs_of: dict[str, Callable[[Row], Pair]],
    pad_id: int,
    budget: int,
    device: torch.device,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, np.ndarray]:
    """Log-probabilities of every row's completions under the reference, from disk when they were computed before.

    pairs_of  column → what it is computed of
    tick      called after every row
    returns   column → [N] float64
    """
    file = cache_folder() / f"{fingerprint(lm, rows, pairs_of)}.safetensors"
    if file.exists():
        return load_file(file)
    columns = {name: np.zeros(len(rows)) for name in pairs_of}
    chunk = 1024  # rows in memory at a time
    for start in range(0, len(rows), chunk):
        part = [rows[i] for i in range(start, min(start + chunk, len(rows)))]
        for name, pair_of in pairs_of.items():
            found = all_logprobs(lm, [pair_of(row) for row in part], pad_id, budget, device)
            columns[name][start : start + len(part)] = found
        for _ in part:
            tick()
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}")
    save_file(columns, draft)
    draft.replace(file)
    return columns


def cache_folder() -> Path:
    """Where reference log-probabilities are kept: $EASYRLHF_CACHE, else ~/.cache/easyrlhf."""
    return Path(os.environ.get("EASYRLHF_CACHE", Path.home() / ".cache" / "easyrlhf")) / "reference"


def fingerprint(lm: nn.Module, rows: Joined, pairs_of: dict[str, Callable[[Row], Pair]]) -> str:
    """Hash of the model's weights and of every token that it is asked about: what is found by it cannot be stale."""
    digest = hashlib.blake2b(digest_size=20)
    for name, tensor in sorted(lm.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    for row in map(rows.__getitem__, range(len(rows))):
        for name, pair_of in pairs_of.items():
            for ids in pair_of(row):
                digest.update(f"{name} {len(ids)}".encode() + np.asarray(ids, dtype="<i4").tobytes())
    return digest.hexdigest()

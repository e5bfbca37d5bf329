"""Log-probabilities under the reference: computed once before training, kept on disk, found again by content."""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from easyrlhf.engine import processes
from easyrlhf.engine.fsdp import put_together
from easyrlhf.engine.micro_batches import micro_batches
from easyrlhf.files import atomic_write
from easyrlhf.models.logprobs import sequence_logprobs
from easyrlhf.models.parts import evaluating, plain_lm
from easyrlhf.models.prefix_sharing import PromptGroup
from easyrlhf.offline.loop import Row, pair_group
from easyrlhf.report.console import Console

CHUNK = 1024  # rows in memory at a time
UNTOLD = {"_name_or_path", "transformers_version"}  # of a configuration: they change no number


@dataclass(frozen=True)
class ReferenceQuestion:
    """What the reference is asked of a kind of rows.

    names     of the columns that its answers make, one for each completion of a row
    group_of  row → its prompt and these completions
    partner   column of ids: each row also has, as other_ids, those of the row that its column `other` numbers
    """

    names: tuple[str, ...]
    group_of: Callable[[Row], PromptGroup]
    partner: str | None = None


PAIR = ReferenceQuestion(("ref_chosen", "ref_rejected"), pair_group)


class RowsWithReference:
    """Token rows with further columns beside them.

    rows      token rows on disk
    question  what a reference is asked of them; None where there is none
    numbers   name → [N], one number a row
    """

    def __init__(self, rows: Dataset, question: ReferenceQuestion | None = None):
        self.rows, self.question = rows, question
        self.partner = question and question.partner
        self.numbers: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | str) -> Any:
        """A row with its numbers, or a whole column."""
        if isinstance(key, str):
            return self.numbers[key] if key in self.numbers else self.rows[key]
        row = self.rows[key] | {name: float(column[key]) for name, column in self.numbers.items()}
        return row | {"other_ids": self.rows[row["other"]][self.partner]} if self.partner else row


@torch.no_grad()
def all_logprobs(lm: nn.Module, groups: list[PromptGroup], budget: int, share: str = "off") -> np.ndarray:
    """sequence_logprobs of N prompts with K completions each, in micro-batches, dropout off.  [N, K]

    Each process computes its share; all have all of it.
    """
    count = len(groups[0][1])
    found = torch.zeros(len(groups), count, dtype=torch.float64)
    with evaluating(lm):
        for indices, weight in micro_batches(list(map(padded_tokens, groups)), budget):
            logprobs = sequence_logprobs(lm, [groups[i] for i in indices], share)
            if weight:
                found[indices] = weight * logprobs.view(-1, count).cpu().double()
    return processes.all_reduce_sum(found).numpy()


def padded_tokens(group: PromptGroup) -> int:
    """Tokens of a group when its prompt is not shared and its completions are padded to one length."""
    prompt, completions = group
    return len(completions) * (len(prompt) + max(map(len, completions)))


def reference_columns(
    lm: nn.Module, rows: RowsWithReference, numbers: np.ndarray, budget: int, share: str, console: Console
) -> dict[str, np.ndarray]:
    """Log-probabilities of rows' completions under the reference, from disk when they were computed before.

    lm       the reference; an adapter that it has is off
    numbers  [n] the rows that are needed
    budget   tokens of one forward pass
    share    as in completion_states
    returns  column → [N] float64, NaN where a row is not needed
    """
    names, group_of = rows.question.names, rows.question.group_of
    file = cache_folder("reference") / f"{fingerprint(lm, rows, numbers)}.safetensors"
    found = processes.on_main(lambda: read_columns(file))
    if found is None:
        with adapter_off(lm), console.progress(len(numbers), unit="row") as progress:
            columns = np.zeros((len(numbers), len(names)))
            for start in range(0, len(numbers), CHUNK):
                groups = [group_of(rows[int(i)]) for i in numbers[start : start + CHUNK]]
                columns[start : start + CHUNK] = all_logprobs(lm, groups, budget, share)
                for _ in groups:
                    progress.advance()
        found = {name: np.ascontiguousarray(column) for name, column in zip(names, columns.T, strict=True)}
        if processes.is_main():
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
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file, file.with_suffix(f".{os.getpid()}")) as draft:  # its folder is shared by all runs
            save_file(columns, draft)
    except (OSError, SafetensorError) as error:
        console.warn(
            f"{file.parent}: the reference's log-probabilities cannot be kept there ({error}); the next run computes "
            "them anew. Set EASYRLHF_CACHE to a folder that can be written"
        )


def cache_folder(kind: str) -> Path:
    """Where what can be made again is kept, a folder a kind: below $EASYRLHF_CACHE, else ~/.cache/easyrlhf."""
    return Path(os.environ.get("EASYRLHF_CACHE", Path.home() / ".cache" / "easyrlhf")) / kind


def fingerprint(lm: nn.Module, rows: RowsWithReference, numbers: np.ndarray) -> str:
    """Hash of the model and of every token that it is asked about: what is found by it cannot be stale."""
    digest = hashlib.blake2b(" ".join(rows.question.names).encode(), digest_size=20)
    config = {name: value for name, value in plain_lm(lm).config.to_dict().items() if name not in UNTOLD}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, stored in own_weights(lm):
        tensor = put_together(stored, plain_lm(lm).config.dtype)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    for row in (rows[int(i)] for i in numbers):
        prompt, completions = rows.question.group_of(row)
        for ids in (prompt, *completions):
            digest.update(f"{len(ids)} ".encode() + np.asarray(ids, dtype="<i4").tobytes())
    return digest.hexdigest()


def own_weights(lm: nn.Module) -> list[tuple[str, Tensor]]:
    """Names and tensors of a language model, named alike with and without an adapter, whose own are left out."""
    weights = plain_lm(lm).state_dict().items()
    own = [(name.replace(".base_layer.", "."), tensor) for name, tensor in weights if ".lora_" not in name]
    return sorted(own, key=lambda weight: weight[0])


def adapter_off(lm: nn.Module) -> AbstractContextManager:
    """The model without its adapter for a while, if it has one."""
    from peft import PeftModel

    return lm.disable_adapter() if isinstance(lm, PeftModel) else nullcontext()

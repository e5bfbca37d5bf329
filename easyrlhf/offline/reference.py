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
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from easyrlhf.engine import processes
from easyrlhf.engine.micro_batches import micro_batches
from easyrlhf.files import atomic_write
from easyrlhf.models.logprobs import sequence_logprobs
from easyrlhf.models.parts import evaluating, plain_lm
from easyrlhf.models.prefix_sharing import PromptGroup
from easyrlhf.report.console import Console

Row = dict[str, Any]

CHUNK = 1024  # rows in memory at a time
UNTOLD = {"_name_or_path", "transformers_version"}  # of a configuration: they change no number


class RowsWithReference:
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


@torch.no_grad()
def all_logprobs(
    lm: nn.Module, families: list[PromptGroup], pad_id: int, budget: int, device: torch.device, share: str
) -> np.ndarray:
    """sequence_logprobs of many families with K completions each, in micro-batches, dropout off.  [N, K]

    Each process computes its share; all have all of it.
    """
    count = len(families[0][1])
    found = torch.zeros(len(families), count, dtype=torch.float64)
    with evaluating(lm):
        for group, counts in micro_batches([padded_tokens(family) for family in families], budget):
            logprobs = sequence_logprobs(lm, [families[i] for i in group], pad_id, device, share)
            if counts:
                found[group] = logprobs.view(-1, count).cpu().double()
    return processes.all_reduce_sum(found).numpy()


def padded_tokens(family: PromptGroup) -> int:
    """Tokens of a family when its prompt is not shared and its completions are padded to one length."""
    prompt, completions = family
    return len(completions) * (len(prompt) + max(map(len, completions)))


def reference_columns(
    lm: nn.Module,
    rows: RowsWithReference,
    numbers: np.ndarray,
    names: tuple[str, ...],
    family_of: Callable[[Row], PromptGroup],
    pad_id: int,
    budget: int,
    device: torch.device,
    share: str,
    console: Console,
) -> dict[str, np.ndarray]:
    """Log-probabilities of rows' completions under the reference, from disk when they were computed before.

    lm         the reference; an adapter that it has is off
    numbers    [n] the rows that are needed
    names      of the columns, one for each completion of a row's family
    family_of  row → its prompt and completions
    returns    column → [N] float64, NaN where a row is not needed
    """
    file = cache_folder("reference") / f"{fingerprint(lm, rows, numbers, names, family_of)}.safetensors"
    found = processes.on_main(lambda: read_columns(file))
    if found is None:
        with adapter_off(lm), console.progress(len(numbers), unit="row") as progress:
            columns = np.zeros((len(numbers), len(names)))
            for start in range(0, len(numbers), CHUNK):
                families = [family_of(rows[int(i)]) for i in numbers[start : start + CHUNK]]
                columns[start : start + CHUNK] = all_logprobs(lm, families, pad_id, budget, device, share)
                for _ in families:
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


def fingerprint(
    lm: nn.Module,
    rows: RowsWithReference,
    numbers: np.ndarray,
    names: tuple[str, ...],
    family_of: Callable[[Row], PromptGroup],
) -> str:
    """Hash of the model and of every token that it is asked about: what is found by it cannot be stale."""
    digest = hashlib.blake2b(" ".join(names).encode(), digest_size=20)
    config = {name: value for name, value in plain_lm(lm).config.to_dict().items() if name not in UNTOLD}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in own_weights(lm):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    for row in (rows[int(i)] for i in numbers):
        prompt, completions = family_of(row)
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

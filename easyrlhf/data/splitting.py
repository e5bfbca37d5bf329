"""Rows held out for validation: whole prompts, so that nothing that is validated on was learned from."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from easyrlhf.data.kinds import is_useless_tie
from easyrlhf.data.ledger import HELD_OUT, KEPT, Ledger
from easyrlhf.data.reader import RowSettings
from easyrlhf.data.records import Record
from easyrlhf.data.sources import Source
from easyrlhf.errors import InputError


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The prompts that are held out, as sorted 64-bit hashes: 8 bytes each.

    Two different prompts of a million have the same hash with a probability of 3e-8, and are then on one side.
    """

    keys: np.ndarray
    seed: int

    def has(self, record: Record) -> bool:
        """Whether a record's prompt is held out."""
        key = np.uint64(prompt_hash(record, self.seed))
        place = int(np.searchsorted(self.keys, key))
        return place < len(self.keys) and bool(self.keys[place] == key)


@dataclass(frozen=True)
class Part:
    """The training rows or the validation rows of data that are split."""

    held_out: HeldOut
    validation: bool

    def of(self, records: Iterable[tuple[Record, Any]], ledger: Ledger) -> Iterator:
        """The records of this part, each with its row; the others are counted."""
        for record, row in records:
            if self.held_out.has(record) == self.validation:
                yield record, row
            else:
                ledger.dropped[KEPT if self.validation else HELD_OUT] += 1


def hold_out(sources: list[Source], kind: str | None, share: float, seed: int, reading: RowSettings) -> HeldOut:
    """Choose the prompts whose rows are the share of all usable rows that is asked for, or as near as prompts allow.

    Chosen by the seed and the prompts alone: neither the order of rows nor that of files matters. At least one prompt
    is on either side. Raises InputError as read_records does, and when all rows have one prompt.
    """
    keys, ledger = array("Q"), Ledger("split", None)
    for source in sources:
        for record, _ in reading.records(source, kind, ledger):
            if not is_useless_tie(record, kind):
                keys.append(prompt_hash(record, seed))
    prompts, counts = np.unique(np.asarray(keys, dtype=np.uint64), return_counts=True)
    if len(prompts) < 2:
        what = "all rows have the same prompt" if len(prompts) else "no row is usable"
        raise InputError(f"{', '.join(one.name for one in sources)}: {what}, so nothing can be held out of them")
    return HeldOut(prompts[draw_held_out(counts, share)], seed)


def draw_held_out(counts: np.ndarray, share: float) -> np.ndarray:
    """Which prompts are held out, as a mask [N]; counts [N] are their rows, in an order that is random.

    One after the other is taken that does not bring the rows above their share; the smallest one when none fits.
    """
    wanted, held = round(share * int(counts.sum())), 0
    mask = np.zeros(len(counts), dtype=bool)
    for prompt, count in enumerate(counts.tolist()):
        if held + count <= wanted:
            mask[prompt], held = True, held + count
    if not mask.any():
        mask[int(counts.argmin())] = True
    if mask.all():
        mask[int(counts.argmin())] = False
    return mask


def prompt_hash(record: Record, seed: int) -> int:
    """A 64-bit hash of a record's prompt, keyed by the seed; white space is evened out, and a text is a user's turn."""
    prompt = record.prompt
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    said = [(turn["role"], " ".join(str(turn.get("content") or "").split())) for turn in turns]
    text = json.dumps(said).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=str(seed).encode()).digest(), "little")

"""Held-out rows that are trained on as well, found by their tokens: in a copy of a file or in part of it."""

import hashlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
from datasets import Dataset

ROWS_AT_A_TIME = 4096


def trained_on(valid: Dataset, train: Dataset) -> int:
    """How many held-out token rows, prompt and answers, are among those that are trained on."""
    keys = np.fromiter(row_hashes(valid), dtype="<u8", count=len(valid))
    known = np.fromiter(row_hashes(train), dtype="<u8", count=len(train))
    return int(np.isin(keys, known).sum())


def row_hashes(rows: Dataset) -> Iterator[int]:
    """A 64-bit hash of the ids of each row, whatever else stands in it."""
    names = [name for name in rows.column_names if name.endswith("_ids")]
    for batch in rows.with_format("arrow").iter(ROWS_AT_A_TIME):
        columns = [list(column_bytes(batch.column(name).combine_chunks())) for name in names]
        for row in zip(*columns, strict=True):
            key = hashlib.blake2b(digest_size=8)
            for ids in row:
                key.update(len(ids).to_bytes(8, "little") + ids)
            yield int.from_bytes(key.digest(), "little")


def column_bytes(column: pa.ListArray) -> Iterator[bytes]:
    """The ids of each row of a column as bytes; of several completions, all with the length of each before it."""
    ends = column.offsets.to_numpy() - column.offsets[0].as_py()
    inner = column.flatten()
    if pa.types.is_list(inner.type):
        parts = [len(ids).to_bytes(8, "little") + ids for ids in column_bytes(inner)]
        yield from (b"".join(parts[start:end]) for start, end in pairwise(ends))
        return
    ids = inner.to_numpy(zero_copy_only=False)
    yield from (ids[start:end].tobytes() for start, end in pairwise(ends))

"""Which row of feedback lends its completion to which prompt, in KTO's estimate of KL."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from easyrlhf.files import atomic_write


def partners(prompts: np.ndarray) -> np.ndarray:
    """For every row another one with another prompt: half the data further on, or the first one after it.

    The partner of a row is the row itself only where it is alone, and has the same prompt only where all have.

    prompts  [N]  equal where prompts are equal
    returns  [N]  row numbers
    """
    count = len(prompts)
    other = (np.arange(count) + max(1, count // 2)) % count
    ends = np.flatnonzero(prompts != np.roll(prompts, -1))  # where the next row, round the end, has another prompt
    if not len(ends):
        return other
    end = ends[np.searchsorted(ends, other) % len(ends)]  # of the run of equal prompts that `other` is in
    return np.where(prompts[other] == prompts, (end + 1) % count, other)


def add_partners(file: Path) -> None:
    """Give an Arrow file of feedback rows the column `other`: see partners. The file is rewritten batch by batch."""
    with pa.memory_map(str(file)) as stored, pa.ipc.open_stream(stored) as stream:
        prompts = (hash(tuple(ids)) for batch in stream for ids in batch.column("prompt_ids").to_pylist())
        others = pa.array(partners(np.fromiter(prompts, dtype=np.int64)))
    start = 0
    with atomic_write(file) as draft, pa.memory_map(str(file)) as stored, pa.ipc.open_stream(stored) as stream:
        schema = stream.schema.append(pa.field("other", pa.int64()))
        with pa.OSFile(str(draft), "wb") as out, pa.ipc.new_stream(out, schema) as writer:
            for batch in stream:
                writer.write_batch(batch.append_column("other", others[start : start + len(batch)]))
                start += len(batch)

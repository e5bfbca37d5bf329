"""From files to token rows on disk: the one way by which training data reaches the loops."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from easyrlhf.data.formats import require_format
from easyrlhf.data.lengths import Limits
from easyrlhf.data.reader import read_records
from easyrlhf.data.records import Comparison, Demonstration, Prompt
from easyrlhf.data.render import Renderer
from easyrlhf.data.sources import open_sources
from easyrlhf.data.summary import OVER_LENGTH, DataSummary, Ledger
from easyrlhf.errors import InputError

IDS, MASK = pa.list_(pa.int32()), pa.list_(pa.int8())
SCHEMAS: dict[str, pa.Schema] = {
    "demonstration": pa.schema({"input_ids": IDS, "loss_mask": MASK, "length": pa.int32()}),
    "comparison": pa.schema(
        {
            "prompt_ids": IDS,
            "chosen_ids": IDS,
            "rejected_ids": IDS,
            "margin": pa.float64(),
            "length": pa.int32(),
        }
    ),
    "prompt": pa.schema({"prompt_ids": IDS, "prompt": pa.string(), "columns": pa.string(), "length": pa.int32()}),
}
ROWS_PER_BATCH = 500


@dataclass(frozen=True)
class TokenData:
    """Token rows, memory-mapped from a file, and the account of how they came about."""

    rows: datasets.Dataset
    summary: DataSummary


def load_tokens(
    source: str,
    kind: str,
    renderer: Renderer,
    *,
    max_length: int,
    max_prompt_length: int,
    cache_dir: Path,
    format: str | None = None,
    overlength: str = "drop",
    on_bad_row: str = "stop",
    name: str = "train",
    bad_rows: Path | None = None,
) -> TokenData:
    """Read, check, render and tokenise data; the rows lie in `cache_dir/{name}.arrow`.

    source    comma list of files, folders and hub ids
    kind      demonstration: input_ids, loss_mask, length
              comparison: prompt_ids, chosen_ids, rejected_ids, margin, length (with longer answer)
              prompt: prompt_ids, prompt (JSON), columns (JSON), length; from records of any kind
    name      "train", "valid", …: names the file and begins the messages
    bad_rows  file for dropped rows, shared with other names; None: `cache_dir/bad_rows.jsonl`

    Memory does not grow with the data. Raises InputError for data that cannot be used (docs/data.md).
    """
    if format is not None:
        require_format(format)
    sources = open_sources(source)
    Path(cache_dir).mkdir(parents=True, exist_ok=True)
    ledger = Ledger(name, bad_rows or Path(cache_dir) / "bad_rows.jsonl")
    limits = Limits(max_length, max_prompt_length, overlength, renderer.tokenizer.bos_token_id)
    noted = renderer.notes.copy()
    records = (
        pair for one in sources for pair in read_records(one, kind, ledger, format=format, on_bad_row=on_bad_row)
    )
    file = Path(cache_dir) / f"{name}.arrow"
    digest = _write(_token_rows(records, kind, renderer, limits, ledger, on_bad_row), kind, file)
    limits.check(name, ledger.read, ledger.dropped[OVER_LENGTH])
    if not ledger.used:
        raise InputError(f"{source}: no usable row; the dropped ones are in {ledger.bad_rows}")
    ledger.notes += renderer.notes - noted
    return TokenData(datasets.Dataset.from_file(str(file)), ledger.summary(digest))


def _token_rows(
    records: Iterator, kind: str, renderer: Renderer, limits: Limits, ledger: Ledger, on_bad_row
) -> Iterator[dict[str, Any]]:
    """The token rows that fit; each record ends up used or dropped."""
    encode = ENCODERS[kind]
    for record, row in records:
        try:
            tokens = encode(record, renderer)
        except InputError as error:
            if on_bad_row == "stop":
                raise InputError(f"{record.place}: {error}") from error
            ledger.drop("not renderable", record.place, row, str(error))
            continue
        fitting = limits.fit(tokens)
        if fitting is None:
            ledger.drop(OVER_LENGTH, record.place, row)
            continue
        ledger.use(_lengths(fitting))
        yield fitting


def _encode_demonstration(record: Demonstration, renderer: Renderer) -> dict[str, Any]:
    ids, mask = renderer.conversation(record.prompt, record.completion)
    return {"input_ids": ids, "loss_mask": mask, "length": len(ids)}


def _encode_comparison(record: Comparison, renderer: Renderer) -> dict[str, Any]:
    prompt = renderer.prompt_ids(record.prompt)
    chosen = renderer.completion_ids(record.prompt, record.chosen)
    rejected = renderer.completion_ids(record.prompt, record.rejected)
    return {
        "prompt_ids": prompt,
        "chosen_ids": chosen,
        "rejected_ids": rejected,
        "margin": 0.0 if record.margin is None else record.margin,
        "length": len(prompt) + max(len(chosen), len(rejected)),
    }


def _encode_prompt(record: Prompt, renderer: Renderer) -> dict[str, Any]:
    ids = renderer.prompt_ids(record.prompt)
    return {
        "prompt_ids": ids,
        "prompt": json.dumps(record.prompt),
        "columns": json.dumps(record.columns, default=str),
        "length": len(ids),
    }


ENCODERS = {
    "demonstration": _encode_demonstration,
    "comparison": _encode_comparison,
    "prompt": _encode_prompt,
}


def _lengths(row: dict[str, Any]) -> dict[str, int]:
    """Tokens per column, `length` first."""
    ids = {key: len(value) for key, value in row.items() if key.endswith("_ids")}
    return {"length": row["length"], **ids}


def _write(rows: Iterator[dict[str, Any]], kind: str, file: Path) -> str:
    """Write rows to an Arrow file, beside and renamed; returns the SHA-256 of their content."""
    schema, digest = SCHEMAS[kind], hashlib.sha256()
    unfinished = file.with_suffix(".tmp")
    with pa.OSFile(str(unfinished), "wb") as out, pa.ipc.new_stream(out, schema) as writer:
        while batch := list(islice(rows, ROWS_PER_BATCH)):
            for row in batch:
                _digest(digest, row)
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
    os.replace(unfinished, file)
    return digest.hexdigest()


def _digest(digest, row: dict[str, Any]) -> None:
    """Add a row: every value preceded by its size, so that no two rows read the same."""
    for value in row.values():
        ids = isinstance(value, list)
        data = np.asarray(value, dtype="<i4").tobytes() if ids else json.dumps(value).encode()
        digest.update(len(data).to_bytes(8, "little") + data)

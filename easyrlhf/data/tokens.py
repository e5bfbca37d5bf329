"""From files to token rows on disk: the one way by which training data reaches the loops."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from easyrlhf.data.chat_template import arguments_for
from easyrlhf.data.dropped import note_dropped
from easyrlhf.data.formats import require_format
from easyrlhf.data.huge import Huge
from easyrlhf.data.kto_mismatch import add_partners
from easyrlhf.data.ledger import HELD_OUT, KEPT, LEFT_OUT, OVER_LENGTH, REPEATED, DataSummary, Ledger
from easyrlhf.data.lengths import TOLERATED, Limits
from easyrlhf.data.reader import KINDS, as_kind, plural, read_records
from easyrlhf.data.records import Comparison, Demonstration, Feedback, Prompt, Ranking, Record
from easyrlhf.data.render import Renderer
from easyrlhf.data.row_errors import ContentFault
from easyrlhf.data.sources import Source, open_sources
from easyrlhf.data.splitting import Part
from easyrlhf.errors import InputError
from easyrlhf.files import atomic_write

SOURCE = "source"  # column with the file of a row, which is no part of its content
IDS, MASK = pa.list_(pa.int32()), pa.list_(pa.int8())
SCHEMAS: dict[str, pa.Schema] = {
    "demonstration": pa.schema({"input_ids": IDS, "loss_mask": MASK, "length": pa.int32()}),
    "comparison": pa.schema(
        {
            "prompt_ids": IDS,
            "chosen_ids": IDS,
            "rejected_ids": IDS,
            "margin": pa.float64(),
            "weight": pa.float64(),
            "length": pa.int32(),
            SOURCE: pa.string(),
        }
    ),
    "ranking": pa.schema(
        {
            "prompt_ids": IDS,
            "completions_ids": pa.list_(IDS),
            "scores": pa.list_(pa.float64()),
            "length": pa.int32(),
        }
    ),
    "feedback": pa.schema({"prompt_ids": IDS, "completion_ids": IDS, "label": pa.bool_(), "length": pa.int32()}),
    "prompt": pa.schema({"prompt_ids": IDS, "prompt": pa.string(), "columns": pa.string(), "length": pa.int32()}),
}
ROWS_PER_BATCH = 500
CHOSEN_ALONE = "comparisons, of which the chosen answer is imitated"
DESIRABLE, UNDESIRABLE = "desirable completions", "undesirable completions"


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
    field: str | None = None,
    transform: str | None = None,
    overlength: str | None = None,
    on_bad_row: str = "stop",
    name: str = "train",
    bad_rows: Path | None = None,
    seed: int = 0,
    places: int | None = None,
    too_long: float = TOLERATED,
    part: Part | None = None,
) -> TokenData:
    """Read, check, render and tokenise data; the rows lie in `cache_dir/{name}.arrow`.

    source    comma list of files, folders and hub ids, each perhaps with a weight, `path=0.3`
    kind      demonstration: input_ids, loss_mask, length
              comparison: prompt_ids, chosen_ids, rejected_ids, margin, weight (1, or 1/pairs for each pair of a
              ranking), length (with longer answer), source (file or hub id)
              ranking: prompt_ids, completions_ids, scores, length (with longest answer); from comparisons too
              feedback: prompt_ids, completion_ids, label, length, other (number of the row whose completion goes
              with this row's prompt in KTO's estimate of KL; together they may be longer than max_length);
              a comparison becomes two
              prompt: prompt_ids, prompt (JSON), columns (JSON), length; from records of any kind
    overlength  as Limits has it
    name      "train", "valid", …: names the file and begins the messages
    bad_rows  file for dropped rows, shared with other names; None: `cache_dir/bad_rows.jsonl`
    seed      decides which rows a weight takes
    places    tokens that the model was made for, for advice
    too_long  share of the rows that may be dropped for their length
    part      the records of a split that are meant; None: all. Of those for validation none is used twice

    Memory does not grow with the data. Raises InputError for data that cannot be used (docs/data.md).
    """
    if format is not None:
        require_format(format)
    sources = open_sources(source, field=field, transform=transform)
    if part and part.validation:
        sources = [replace(one, weight=min(one.weight, 1.0)) for one in sources]
    Path(cache_dir).mkdir(parents=True, exist_ok=True)
    ledger = Ledger(name, bad_rows or Path(cache_dir) / "bad_rows.jsonl")
    bos = renderer.tokenizer.bos_token_id
    huge = Huge.of(renderer.tokenizer, max_length)
    limits = Limits(max_length, max_prompt_length, overlength, bos, places, too_long, huge)
    noted = renderer.notes.copy()
    records = (
        (record, row, copies, one.name)
        for one in sources
        for (record, row), copies in zip(
            _part_of(one, kind, ledger, part, format=format, on_bad_row=on_bad_row), one.copies(seed), strict=False
        )
    )
    file = Path(cache_dir) / f"{name}.arrow"
    digest = _write(_token_rows(records, kind, renderer, limits, ledger, on_bad_row), kind, file)
    others = sum(ledger.dropped[reason] for reason in (LEFT_OUT, HELD_OUT, KEPT))
    lengths = ledger.read - others, ledger.dropped[OVER_LENGTH]
    limits.check(name, *lengths)
    ledger.notes.update(limits.notes(*lengths))
    if not ledger.used:
        raise InputError(f"{source}: no usable row; the dropped ones are in {ledger.bad_rows}")
    if kind == "feedback":
        add_partners(file)
    ledger.notes += renderer.notes - noted
    return TokenData(datasets.Dataset.from_file(str(file)), ledger.summary(digest))


def _part_of(source: Source, kind: str, ledger: Ledger, part: Part | None, **how) -> Iterator[tuple[Record, Any]]:
    """The usable records of a source that are meant."""
    records = read_records(source, kind, ledger, **how)
    return part.of(records, ledger) if part else records


def label_counts(rows: datasets.Dataset) -> tuple[int, int]:
    """How many feedback rows are desirable, and how many are not."""
    desirable = sum(rows["label"])
    return desirable, len(rows) - desirable


def check_labels(rows: datasets.Dataset, name: str = "train") -> None:
    """Raise InputError unless the feedback rows have both labels: with one alone, KTO learns no preference."""
    desirable, undesirable = label_counts(rows)
    if desirable and undesirable:
        return
    alone, missing = ("true", "false") if desirable else ("false", "true")
    raise InputError(
        f"{name}: all {len(rows):,} completions have the label {alone}; kto_train needs both liked and disliked ones: "
        f"add rows with the label {missing}, or learn from the liked ones with sft_train"
    )


def _token_rows(
    records: Iterator, kind: str, renderer: Renderer, limits: Limits, ledger: Ledger, on_bad_row
) -> Iterator[dict[str, Any]]:
    """The token rows that fit, as often as weights say; each record ends up used, with all its rows, or dropped."""
    encode = ENCODERS[kind]
    for record, row, copies, name in records:
        if not copies:
            ledger.leave_out()
            continue
        made = as_kind(record, kind)
        if any(map(limits.refuses, made)):
            ledger.drop(OVER_LENGTH, record.place, row)
            continue
        try:
            tokens = [row | {SOURCE: name} for one in made for row in encode(one, renderer)]
        except ContentFault as fault:
            ledger.drop(fault.reason, record.place, row)
            continue
        except InputError as error:
            if on_bad_row == "stop":
                raise InputError(f"{record.place}: {error}") from error
            ledger.drop("not renderable", record.place, row, str(error))
            continue
        fitting = limits.fit(tokens)
        if fitting is None:
            ledger.drop(OVER_LENGTH, record.place, row)
            continue
        fitting *= copies
        ledger.use(list(map(_lengths, fitting)))
        ledger.notes[REPEATED] += copies > 1
        _note(record, fitting, kind, ledger)
        yield from fitting


def _note(record: Record, rows: list[dict[str, Any]], kind: str, ledger: Ledger) -> None:
    """Say what a record was turned into, where its kind has changed, and which labels it has."""
    if kind == "demonstration" and isinstance(record, Comparison):
        ledger.notes[CHOSEN_ALONE] += 1
    elif kind != "prompt" and not isinstance(record, KINDS[kind]):
        ledger.convert(plural(type(record)), plural(KINDS[kind]), len(rows))
    if kind == "feedback":
        ledger.notes += Counter(DESIRABLE if row["label"] else UNDESIRABLE for row in rows)


def _encode_demonstration(record: Demonstration, renderer: Renderer) -> list[dict[str, Any]]:
    arguments = _arguments(record, renderer, [record.completion])
    examples = renderer.examples(record.prompt, record.completion, arguments)
    return [{"input_ids": ids, "loss_mask": mask, "length": len(ids)} for ids, mask in examples]


def _encode_comparison(record: Comparison, renderer: Renderer) -> list[dict[str, Any]]:
    answers = [record.chosen, record.rejected]
    arguments = _arguments(record, renderer, answers)
    prompt, (chosen, rejected) = renderer.answers(record.prompt, answers, arguments)
    row = {
        "prompt_ids": prompt,
        "chosen_ids": chosen,
        "rejected_ids": rejected,
        "margin": 0.0 if record.margin is None else record.margin,
        "weight": record.weight,
        "length": len(prompt) + max(len(chosen), len(rejected)),
    }
    return [row]


def _encode_ranking(record: Ranking, renderer: Renderer) -> list[dict[str, Any]]:
    arguments = _arguments(record, renderer, record.completions)
    prompt, completions = renderer.answers(record.prompt, record.completions, arguments)
    row = {
        "prompt_ids": prompt,
        "completions_ids": completions,
        "scores": record.scores,
        "length": len(prompt) + max(map(len, completions)),
    }
    return [row]


def _encode_feedback(record: Feedback, renderer: Renderer) -> list[dict[str, Any]]:
    arguments = _arguments(record, renderer, [record.completion])
    prompt, [completion] = renderer.answers(record.prompt, [record.completion], arguments)
    row = {
        "prompt_ids": prompt,
        "completion_ids": completion,
        "label": record.label,
        "length": len(prompt) + len(completion),
    }
    return [row]


def _encode_prompt(record: Prompt, renderer: Renderer) -> list[dict[str, Any]]:
    ids = renderer.prompt_ids(record.prompt, _arguments(record, renderer, [[]]))
    row = {
        "prompt_ids": ids,
        "prompt": json.dumps(record.prompt),
        "columns": json.dumps(record.columns, default=str),
        "length": len(ids),
    }
    return [row]


def _arguments(record: Record, renderer: Renderer, answers: list) -> dict[str, Any] | None:
    """What the record tells the chat template; what the template drops of its conversations is noted."""
    arguments = arguments_for(record.prompt, record.columns)
    if arguments is not None:
        note_dropped(renderer, [record.prompt + answer for answer in answers], arguments)
    return arguments


# kind → (record, renderer) → its token rows: one, but for demonstrations whose answers are learned apart. They raise
# InputError where the template refuses, ContentFault where there is nothing to learn.
ENCODERS = {
    "demonstration": _encode_demonstration,
    "comparison": _encode_comparison,
    "ranking": _encode_ranking,
    "feedback": _encode_feedback,
    "prompt": _encode_prompt,
}


def _lengths(row: dict[str, Any]) -> dict[str, int]:
    """Tokens per column, `length` first; of several completions those of the longest."""
    ids = {key: value for key, value in row.items() if key.endswith("_ids")}
    if "completions_ids" in ids:
        ids["completions_ids"] = max(ids["completions_ids"], key=len)
    return {"length": row["length"]} | {key: len(value) for key, value in ids.items()}


def _write(rows: Iterator[dict[str, Any]], kind: str, file: Path) -> str:
    """Write rows to an Arrow file, beside and renamed; returns the SHA-256 of their content."""
    schema, digest = SCHEMAS[kind], hashlib.sha256()
    with (
        atomic_write(file) as draft,
        pa.OSFile(str(draft), "wb") as out,
        pa.ipc.new_stream(out, schema) as writer,
    ):
        while batch := list(islice(rows, ROWS_PER_BATCH)):
            for row in batch:
                _digest(digest, row)
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema))
    return digest.hexdigest()


def _digest(digest, row: dict[str, Any]) -> None:
    """Add a row: every value preceded by its size, so that no two rows read the same."""
    for value in (value for key, value in row.items() if key != SOURCE):
        ids = isinstance(value, list) and not isinstance(value[0] if value else 0, list | float)
        data = np.asarray(value, dtype="<i4").tobytes() if ids else json.dumps(value).encode()
        digest.update(len(data).to_bytes(8, "little") + data)

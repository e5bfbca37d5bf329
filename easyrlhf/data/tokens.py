"""From files to token rows on disk: the one way by which training data reaches the loops."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerFast

from easyrlhf.data.huge import Huge
from easyrlhf.data.kinds import KINDS, as_kind, loses_sureness, plural
from easyrlhf.data.kto_mismatch import add_partners
from easyrlhf.data.ledger import (
    HELD_OUT,
    KEPT,
    LEFT_OUT,
    OVER_LENGTH,
    REPEATED,
    TIES,
    WINNER_ALONE,
    DataSummary,
    Ledger,
)
from easyrlhf.data.lengths import TOLERATED, Limits
from easyrlhf.data.reader import RowSettings
from easyrlhf.data.records import Comparison, Record
from easyrlhf.data.render import Renderer
from easyrlhf.data.row_errors import ContentFault
from easyrlhf.data.sources import Source
from easyrlhf.data.splitting import Part
from easyrlhf.data.token_rows import ENCODERS, PLACE, SCHEMAS, SOURCE, lengths_of
from easyrlhf.errors import InputError
from easyrlhf.files import atomic_write

ROWS_PER_BATCH = 500
CHOSEN_ALONE = "comparisons, of which the chosen answer is imitated"
DESIRABLE, UNDESIRABLE = "desirable completions", "undesirable completions"


@dataclass(frozen=True)
class TokenData:
    """Token rows, memory-mapped from a file, and the account of how they came about."""

    rows: datasets.Dataset
    summary: DataSummary


@dataclass(frozen=True, kw_only=True)
class DataSettings(RowSettings):
    """How rows are read, what is too long, and where the token rows lie.

    overlength  as Limits has it
    cache_dir   folder of the token rows, `{name}.arrow`
    name        "train", "valid", …: names the file and begins the messages
    bad_rows    file for dropped rows, shared with other names; None: `cache_dir/bad_rows.jsonl`
    seed        decides which rows a weight takes
    places      tokens that the model was made for, for advice
    too_long    share of the rows that may be dropped for their length
    part        the records of a split that are meant; None: all. Of those for validation none is used twice
    """

    max_length: int
    max_prompt_length: int
    cache_dir: Path
    overlength: str | None = None
    name: str = "train"
    bad_rows: Path | None = None
    seed: int = 0
    places: int | None = None
    too_long: float = TOLERATED
    part: Part | None = None

    def open(self, files: str) -> list[Source]:
        """As RowSettings; of rows for validation none is used twice."""
        sources = super().open(files)
        if self.part and self.part.validation:
            return [replace(one, weight=min(one.weight, 1.0)) for one in sources]
        return sources

    def limits_for(self, tokenizer: PreTrainedTokenizerFast) -> Limits:
        """The limits in tokens of this tokenizer."""
        huge = Huge.of(tokenizer, self.max_length)
        limits = self.max_length, self.max_prompt_length, self.overlength
        return Limits(*limits, tokenizer.bos_token_id, self.places, self.too_long, huge)


def dropping(overlength: str | None) -> dict[str, Any]:
    """The settings of --overlength: rows that are too long are dropped, but all of them only where this was asked."""
    return {"overlength": overlength or "drop", "too_long": 1.0 if overlength == "drop" else TOLERATED}


def load_tokens(source: str, kind: str, renderer: Renderer, settings: DataSettings) -> TokenData:
    """Read, check, render and tokenise data; the rows lie in `cache_dir/{name}.arrow`.

    source    comma list of files, folders and hub ids, each perhaps with a weight, `path=0.3`
    kind      demonstration: input_ids, loss_mask, length
              comparison: prompt_ids, chosen_ids, rejected_ids, margin, weight (1, or 1/pairs for each pair of a
              ranking), chosen_probability (1 where a row does not say), length (with longer answer), source (file or
              hub id)
              ranking: prompt_ids, completions_ids, scores, length (with longest answer); from comparisons too
              feedback: prompt_ids, completion_ids, label, length, other (number of the row whose completion goes
              with this row's prompt in KTO's estimate of KL; together they may be longer than max_length);
              a comparison becomes two
              prompt: prompt_ids, prompt (JSON), columns (JSON), length, place; from records of any kind

    Memory does not grow with the data. Raises InputError for data that cannot be used (docs/data.md).
    """
    sources = settings.open(source)
    file = Path(settings.cache_dir) / f"{settings.name}.arrow"
    file.parent.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(settings.name, settings.bad_rows or file.parent / "bad_rows.jsonl")
    limits = settings.limits_for(renderer.tokenizer)
    noted = renderer.notes.copy()
    records = _weighed_records(sources, kind, settings, ledger)
    digest = _write(_token_rows(records, kind, renderer, limits, ledger, settings.on_bad_row), kind, file)
    others = sum(ledger.dropped[reason] for reason in (LEFT_OUT, HELD_OUT, KEPT, TIES))
    lengths = ledger.read - others, ledger.dropped[OVER_LENGTH]
    limits.check(settings.name, *lengths)
    ledger.notes.update(limits.notes(*lengths))
    if not ledger.used:
        raise InputError(ledger.nothing_left(source))
    if kind == "feedback":
        add_partners(file)
    ledger.notes += renderer.notes - noted
    return TokenData(datasets.Dataset.from_file(str(file)), ledger.summary(digest))


def _weighed_records(
    sources: list[Source], kind: str, settings: DataSettings, ledger: Ledger
) -> Iterator[tuple[Record, Any, int, str]]:
    """The usable records that are meant, each with its row, how often it is used, and its source's name."""
    for source in sources:
        records = settings.records(source, kind, ledger)
        meant = settings.part.of(records, ledger) if settings.part else records
        for (record, row), copies in zip(meant, source.copies(settings.seed), strict=False):
            yield record, row, copies, source.name


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


def check_winners(name: str, labels: Iterable[float]) -> None:
    """Raise InputError where all pairs to evaluate on are ties: of none it is known which answer is the better one."""
    labels = np.asarray(labels)
    if not (labels > 0.5).any():
        raise InputError(
            f"{name}: all {len(labels):,} pairs to evaluate on are ties (chosen_probability 0.5), so there is no "
            "accuracy to measure; add pairs with a winner"
        )


def _token_rows(
    records: Iterator, kind: str, renderer: Renderer, limits: Limits, ledger: Ledger, on_bad_row
) -> Iterator[dict[str, Any]]:
    """The token rows that fit, as often as weights say; each record ends up used, with all its rows, or dropped."""
    encode = ENCODERS[kind]
    for record, row, copies, name in records:
        if not copies:
            ledger.leave_out(LEFT_OUT)
            continue
        made = as_kind(record, kind)
        if not made:
            ledger.leave_out(TIES)
            continue
        if any(map(limits.refuses, made)):
            ledger.drop(OVER_LENGTH, record.place, row)
            continue
        try:
            about = {SOURCE: name, PLACE: record.place}
            tokens = [row | about for one in made for row in encode(one, renderer)]
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
        ledger.use(list(map(lengths_of, fitting)))
        ledger.notes[REPEATED] += copies > 1
        _note(record, fitting, kind, ledger)
        yield from fitting


def _note(record: Record, rows: list[dict[str, Any]], kind: str, ledger: Ledger) -> None:
    """Say what a record was turned into, where its kind has changed, and which labels it has."""
    if kind == "demonstration" and isinstance(record, Comparison):
        ledger.notes[CHOSEN_ALONE] += 1
    elif kind != "prompt" and not isinstance(record, KINDS[kind]):
        ledger.convert(plural(type(record)), plural(KINDS[kind]), len(rows))
    ledger.notes[WINNER_ALONE] += loses_sureness(record, kind)
    if kind == "feedback":
        ledger.notes += Counter(DESIRABLE if row["label"] else UNDESIRABLE for row in rows)


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
    """Add a row: every value preceded by its size, so that no two rows read the same.

    A label that is sure is left out, as rows had none before there were soft ones.
    """
    sure = {"chosen_probability": 1.0}.items()
    for value in (value for key, value in row.items() if key not in (SOURCE, PLACE) and (key, value) not in sure):
        ids = isinstance(value, list) and not isinstance(value[0] if value else 0, list | float)
        data = np.asarray(value, dtype="<i4").tobytes() if ids else json.dumps(value).encode()
        digest.update(len(data).to_bytes(8, "little") + data)

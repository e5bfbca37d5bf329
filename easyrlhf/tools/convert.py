"""easyrlhf data convert: rows of any format, written in TRL's."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonlines

from easyrlhf.data.kinds import KINDS, as_kind, loses_sureness, plural
from easyrlhf.data.ledger import TIES, WINNER_ALONE, DataSummary, Ledger
from easyrlhf.data.read_row import recognise
from easyrlhf.data.reader import RowSettings, kind_of
from easyrlhf.data.records import Comparison, Demonstration, Feedback, Messages, Prompt, Ranking, Record
from easyrlhf.data.sources import Source
from easyrlhf.errors import InputError
from easyrlhf.files import atomic_write

# kind -> the format that its rows are written in, and read in again
TARGETS = {
    "demonstration": "prompt_completion",
    "comparison": "preference",
    "ranking": "ranking",
    "feedback": "unpaired",
    "prompt": "prompt",
}


def convert_data(
    files: str,
    output: str | Path,
    *,
    kind: str | None = None,
    overwrite: bool = False,
    **rows: Any,
) -> DataSummary:
    """Write the records of `files` as TRL's rows, one JSON object a line, and print the balance.

    files   comma list of files, folders and hub ids
    kind    the records that are wanted; None: those that the first file holds
    rows    how they are read: format, field, transform, on_bad_row, as RowSettings has them
    output  a new .jsonl file; dropped rows go to `{output without .jsonl}.bad_rows.jsonl`
    Raises InputError for rows that cannot be read, and for an output that would overwrite something.
    """
    reading, output = RowSettings(**rows), Path(output)
    sources = reading.open(files)
    check_output(output, sources, overwrite)
    kind = kind or kind_of(sources[0], reading.format)
    ledger = Ledger(output.name, output.with_suffix(".bad_rows.jsonl"))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(output) as draft:
            with jsonlines.open(draft, "w", dumps=_dumps) as out:
                for source in sources:
                    out.write_all(converted(source, kind, ledger, reading))
            if not ledger.used:
                raise InputError(ledger.nothing_left(files))
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written ({error.strerror}); give another file") from error
    summary = ledger.summary("")
    print("\n".join([*summary.lines(), f"{output}: {ledger.rows:,} {plural(KINDS[kind])} (format {TARGETS[kind]})"]))
    return summary


def check_output(output: Path, sources: list[Source], overwrite: bool) -> None:
    """Raise InputError unless the output can be written without any loss, and the inputs can be read once each."""
    if output.suffix != ".jsonl":
        raise InputError(f"--output {output}: must end with .jsonl, by which the stages know what it is")
    for source in sources:
        if output.exists() and os.path.exists(source.name) and os.path.samefile(output, source.name):
            raise InputError(f"--output {output}: is one of the inputs; give another file")
        if source.weight != 1:
            raise InputError(
                f"{source.name}={source.weight:g}: every row is converted once; the stage that trains takes weights"
            )
    if output.is_dir() or (output.exists() and not overwrite):
        way = "it is a folder" if output.is_dir() else "give another file, or --overwrite to replace it"
        raise InputError(f"--output {output}: is there already; {way}")


def converted(source: Source, kind: str, ledger: Ledger, reading: RowSettings) -> Iterator[dict[str, Any]]:
    """The rows to write for one source; raises InputError for one that would not be read again as what it is."""
    for record, _ in reading.records(source, kind, ledger):
        rows = [trl_row(one) for one in as_kind(record, kind)]
        if not rows:
            ledger.leave_out(TIES)
            continue
        ledger.used += 1
        ledger.rows += len(rows)
        ledger.notes[WINNER_ALONE] += loses_sureness(record, kind)
        if not isinstance(record, KINDS[kind]) and kind != "prompt":
            ledger.convert(plural(type(record)), plural(KINDS[kind]), len(rows))
        yield from rows


def trl_row(record: Record) -> dict[str, Any]:
    """A record as a row of TRL's: strings stay strings, messages messages, and other columns come last.

    Turns that are switched off say so by `weight`. A prompt's row loses the answers that it was given beside it.
    Raises InputError when a column has the name of a key, or makes the row look like one of another format.
    """
    target = next(TARGETS[kind] for kind, one in KINDS.items() if isinstance(record, one))
    row: dict[str, Any] = {"prompt": record.prompt}
    match record:
        case Prompt():
            record = replace(record, columns={k: v for k, v in record.columns.items() if k not in record.answers})
        case Demonstration(prompt=""):
            row, target = {"text": record.completion}, "text"
        case Demonstration():
            row |= {"completion": switched(record.completion)}
        case Comparison():
            row |= {"chosen": record.chosen, "rejected": record.rejected}
            known = {"margin": record.margin, "chosen_probability": record.chosen_probability}
            row |= {key: value for key, value in known.items() if value is not None}
        case Ranking():
            row |= {"completions": record.completions, "scores": record.scores}
        case Feedback():
            row |= {"completion": record.completion, "label": record.label}
    lost = sorted(row.keys() & record.columns.keys())
    row |= record.columns
    if lost or recognise(row) != target:
        raise InputError(
            f"{record.place}: the columns {', '.join(record.columns)} stand in the way: with them a row of format "
            f"{target} {f'would lose its {lost[0]!r}' if lost else f'reads as {recognise(row)!r}'}; give them other "
            "names with --field, or leave them out with --transform"
        )
    return row


def switched(completion: str | Messages) -> str | Messages:
    """A completion whose turns that are not learned have the weight 0."""
    if isinstance(completion, str):
        return completion
    kept = [{key: value for key, value in turn.items() if key != "learned"} for turn in completion]
    return [
        turn | ({} if was.get("learned", True) else {"weight": 0}) for turn, was in zip(kept, completion, strict=True)
    ]


def _dumps(value: Any) -> str:
    """JSON for whatever a row may hold, in readable characters."""
    return json.dumps(value, ensure_ascii=False, default=str)

"""From sources to records, with the policy on rows that are wrong."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from easyrlhf.data.faults import ContentFault, StructuralFault
from easyrlhf.data.fields import keys_of
from easyrlhf.data.formats import FORMATS, recognise, require_format, table, variant
from easyrlhf.data.records import Comparison, Demonstration, Feedback, Prompt, Ranking, Record
from easyrlhf.data.sources import RawRow, Source
from easyrlhf.data.summary import Ledger
from easyrlhf.errors import InputError

LOOK_AT = 10  # rows from which a file's format is recognised
TOLERATED = 0.01  # share of a file's rows that may have a content fault
BROKEN = "unreadable row"
KINDS: dict[str, type] = {
    "demonstration": Demonstration,
    "comparison": Comparison,
    "ranking": Ranking,
    "feedback": Feedback,
    "prompt": Prompt,
}
READ_BY: dict[type, str] = {
    Demonstration: "sft_train",
    Comparison: "rm_train and dpo_train",
    Ranking: "rrhf_train",
    Feedback: "kto_train",
    Prompt: "ppo_train",
}
# What a record of another kind becomes; every record also yields its prompt.
CONVERSIONS: dict[tuple[type, str], Callable[[Record], list[Record]]] = {
    (Comparison, "demonstration"): lambda record: [record.as_demonstration()],
    (Comparison, "ranking"): lambda record: [record.as_ranking()],
    (Comparison, "feedback"): lambda record: record.as_feedbacks(),
    (Ranking, "comparison"): lambda record: record.as_comparisons(),
}
REASONS: dict[tuple[type, str], str] = {
    (Ranking, "feedback"): "a ranking does not say which answers are liked: give each answer a row with its label",
}


def read_records(
    source: Source, kind: str, ledger: Ledger, *, format: str | None, on_bad_row: str
) -> Iterator[tuple[Record, Any]]:
    """The usable records of one source, each with the row it came from.

    kind        one of KINDS: what each record is, or can be turned into by as_kind
    format      a name that require_format takes, or None to recognise it from the first rows
    on_bad_row  "stop" raises InputError at a structural fault, and at the end of the source when
                more than 1 % of its rows had a content fault; "skip" drops and counts them all
    """
    name, expected = _format_of(source, format and require_format(format, kind))
    _require_kind(source, name, kind)
    ledger.files.append(source.name)
    ledger.formats.append(expected or name)
    ledger.notes += source.notes
    read, faults, first_fault = 0, 0, ""
    for raw in source.read():
        ledger.read += 1
        if raw.dropped:
            ledger.drop(raw.dropped, raw.place, raw.value)
            continue
        read += 1
        try:
            record = _parse(raw, name, expected, ledger.notes)
        except StructuralFault as fault:
            if on_bad_row == "stop":
                raise InputError(f"{raw.place}: {fault} (--on_bad_row skip drops such rows)") from fault
            ledger.drop(BROKEN, raw.place, raw.value, str(fault))
        except ContentFault as fault:
            faults += 1
            first_fault = first_fault or f"{raw.place}: {fault.reason}"
            ledger.drop(fault.reason, raw.place, raw.value)
        else:
            yield record, raw.value
    if on_bad_row == "stop" and faults > TOLERATED * read:
        raise InputError(
            f"{first_fault}; {faults:,} of {read:,} rows of this file have such faults, more than "
            f"{TOLERATED:.0%}; correct them, or drop them with --on_bad_row skip"
        )


def kind_of(source: Source, format: str | None) -> str:
    """The kind of records that a source holds. Raises InputError when its format is not known."""
    name, _ = _format_of(source, format and require_format(format))
    return next(kind for kind, record in KINDS.items() if record is FORMATS[name].record)


def as_kind(record: Record, kind: str) -> list[Record]:
    """The record as records of the kind that is wanted; for records that read_records yields for this kind."""
    if kind == "prompt":
        return [record.as_prompt()]
    convert = CONVERSIONS.get((type(record), kind))
    return convert(record) if convert else [record]


def _parse(raw: RawRow, name: str, expected: str | None, notes: Counter) -> Record:
    if raw.fault:
        raise StructuralFault(raw.fault)
    if not isinstance(raw.value, dict):
        raise StructuralFault(f"expected a JSON object, found {type(raw.value).__name__}")
    record = FORMATS[name].parse(raw.value, raw.place, notes)
    if expected is not None:
        found = _variant_of(raw.value)
        if found != expected:
            raise StructuralFault(
                f"mixed formats: this row reads as '{found}' ({keys_of(raw.value)}), the first "
                f"rows of the file as '{expected}'; split the file, or choose with --format"
            )
    return record


def _format_of(source: Source, forced: str | None) -> tuple[str, str | None]:
    """The format's name, and the variant that all rows must have (None when forced)."""
    first = list(islice((row for row in source.read() if not row.dropped), LOOK_AT))
    if not first:
        left = " that --transform keeps" if any(source.read()) else ""
        raise InputError(f"{source.name}: the file holds no row{left}")
    if forced is not None:
        return forced, None
    variants = Counter(v for row in first if (v := _variant_of(row.value)) is not None)
    if variants:
        expected = variants.most_common(1)[0][0]
        return expected.split(",")[0], expected
    place, seen = first[0].place, first[0].value
    if first[0].fault:
        raise InputError(f"{place}: {first[0].fault}")
    found = keys_of(seen) if isinstance(seen, dict) else f"a {type(seen).__name__}"
    raise InputError(
        f"{place}: no known format; found {found}; expected one of\n{table()}\n"
        "(or name the keys with --field, or choose with --format)"
    )


def _variant_of(row: Any) -> str | None:
    name = recognise(row)
    return None if name is None else variant(name, row)


def _require_kind(source: Source, name: str, kind: str) -> None:
    """Stop when the file holds records of another kind than the stage reads."""
    record = FORMATS[name].record
    if kind == "prompt" or record is KINDS[kind] or (record, kind) in CONVERSIONS:
        return
    wanted = [f"  {n}: {f.keys}" for n, f in FORMATS.items() if f.record is KINDS[kind]]
    keys = next((keys_of(r.value) for r in source.read() if isinstance(r.value, dict)), "")
    reason = REASONS.get((record, kind))
    raise InputError(
        f"{source.name}: holds {plural(record)} (format {name}, found {keys}), which are for {READ_BY[record]}; "
        f"this stage needs {plural(KINDS[kind])}{f' ({reason})' if reason else ''}:\n" + "\n".join(wanted)
    )


def plural(record: type) -> str:
    """What several records of this kind are called, for messages."""
    return record.__name__.lower() + "s"

"""From sources to records, with the policy on rows that are wrong."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

from easyrlhf.data.faults import ContentFault, StructuralFault
from easyrlhf.data.fields import keys_of
from easyrlhf.data.formats import FORMATS, recognise, table, variant
from easyrlhf.data.records import Comparison, Demonstration, Feedback, Prompt, Record
from easyrlhf.data.sources import RawRow, Source
from easyrlhf.data.summary import Ledger
from easyrlhf.errors import InputError

LOOK_AT = 10  # rows from which a file's format is recognised
TOLERATED = 0.01  # share of a file's rows that may have a content fault
BROKEN = "unreadable row"
CHOSEN_ALONE = "comparisons, of which the chosen answer is imitated"

KINDS: dict[str, type] = {
    "demonstration": Demonstration,
    "comparison": Comparison,
    "prompt": Prompt,
}
READ_BY: dict[type, str] = {
    Demonstration: "sft_train",
    Comparison: "rm_train",
    Feedback: "no stage of this version",
    Prompt: "ppo_train",
}


def read_records(
    source: Source, kind: str, ledger: Ledger, *, format: str | None, on_bad_row: str
) -> Iterator[tuple[Record, Any]]:
    """The usable records of one source, each with the row it came from.

    kind        "comparison", "demonstration" (which a comparison yields too: its chosen answer), or "prompt" (which
                every record yields)
    format      a name of FORMATS, or None to recognise it from the first rows
    on_bad_row  "stop" raises InputError at a structural fault, and at the end of the source when
                more than 1 % of its rows had a content fault; "skip" drops and counts them all
    """
    name, expected = _format_of(source, format)
    _require_kind(source, name, kind)
    ledger.files.append(source.name)
    ledger.formats.append(expected or name)
    read, faults, first_fault = 0, 0, ""
    for raw in source.read():
        ledger.read += 1
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
            yield _as_kind(record, kind, ledger.notes), raw.value
    if on_bad_row == "stop" and faults > TOLERATED * read:
        raise InputError(
            f"{first_fault}; {faults:,} of {read:,} rows of this file have such faults, more than "
            f"{TOLERATED:.0%}; correct them, or drop them with --on_bad_row skip"
        )


def _as_kind(record: Record, kind: str, notes: Counter) -> Record:
    """The record as the kind that is wanted; only conversions that _require_kind allows come here."""
    if kind == "prompt":
        return record.as_prompt()
    if kind == "demonstration" and isinstance(record, Comparison):
        notes[CHOSEN_ALONE] += 1
        return record.as_demonstration()
    return record


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
    first = list(islice(source.read(), LOOK_AT))
    if not first:
        raise InputError(f"{source.name}: the file holds no row")
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
        "(or rename the keys, or choose with --format)"
    )


def _variant_of(row: Any) -> str | None:
    name = recognise(row)
    return None if name is None else variant(name, row)


def _require_kind(source: Source, name: str, kind: str) -> None:
    """Stop when the file holds records of another kind than the stage reads."""
    record = FORMATS[name].record
    if kind == "prompt" or record is KINDS[kind] or (kind == "demonstration" and record is Comparison):
        return
    wanted = [f"  {n}: {f.keys}" for n, f in FORMATS.items() if f.record is KINDS[kind]]
    keys = next((keys_of(r.value) for r in source.read() if isinstance(r.value, dict)), "")
    raise InputError(
        f"{source.name}: holds {_plural(record)} (format {name}, found {keys}), which "
        f"{READ_BY[record]} reads; {READ_BY[KINDS[kind]]} needs {_plural(KINDS[kind])}:\n" + "\n".join(wanted)
    )


def _plural(record: type) -> str:
    return "feedback" if record is Feedback else record.__name__.lower() + "s"

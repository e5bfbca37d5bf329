"""From sources to records, with the policy on rows that are wrong."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, Self

from easyrlhf.config.base import Settings
from easyrlhf.data.fields import LABELS, keys_of, label, may_ask
from easyrlhf.data.formats import FORMATS, WHOLE, format_table, require_format
from easyrlhf.data.keys import CONTEXT
from easyrlhf.data.kinds import CONVERSIONS, KINDS, READ_BY, REASONS, plural
from easyrlhf.data.ledger import Ledger
from easyrlhf.data.messages import role_of
from easyrlhf.data.raw import RawRow
from easyrlhf.data.read_row import IMPLICIT_TEXT, Reading, read_row, recognise, unfolded_row, variant, without_nulls
from easyrlhf.data.records import Prompt, Record
from easyrlhf.data.row_errors import ContentFault, StructuralFault
from easyrlhf.data.sources import Source, open_sources
from easyrlhf.data.watching import watched
from easyrlhf.errors import InputError

LOOK_AT = 10  # rows from which a file's format is recognised
# Shares of a file's rows that may have a content fault: equal answers are common in real comparisons, and harmless.
TOLERATED = 0.01
TOLERATED_EQUAL = 0.05
EQUALS = ("chosen equals rejected", "all completions equal", "all ties")
BROKEN = "unreadable row"
RECORD_KEYS = ("prompt", "completion", "chosen", "rejected")
# kind of record → the keys of its question and answers, as texts and as turns: what --field may give their names to.
ASKED: dict[str | None, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(("prompt", "ranking", None), ("prompt", ())),
    **dict.fromkeys(("demonstration", "feedback"), ("prompt", ("completion",))),
    "comparison": ("prompt", ("chosen", "rejected")),
}
IN_TURNS = {
    **dict.fromkeys(("demonstration", "feedback"), ("instruction", ("output",))),
    "comparison": ("question", ("chosen", "rejected")),
}
ANSWER_NAMES = ("answer", "response", "output", "completion", "solution", "reply", "assistant", "target")


@dataclass(frozen=True, kw_only=True)
class RowSettings:
    """How rows are read: the settings of these names, as every command has them that reads rows.

    format, on_bad_row  as read_records has them
    field, transform    as open_sources has them
    """

    format: str | None = None
    field: str | None = None
    transform: str | None = None
    on_bad_row: str = "stop"

    @classmethod
    def of(cls, config: Settings, **others: Any) -> Self:
        """Those of a command, and others of a class that has more."""
        return cls(**{one.name: config.value(one.name) for one in fields(RowSettings)}, **others)

    def open(self, files: str) -> list[Source]:
        """The sources that are named. Raises InputError, also for a format that is not known."""
        if self.format is not None:
            require_format(self.format)
        return open_sources(files, field=self.field, transform=self.transform)

    def records(
        self, source: Source, kind: str | None, ledger: Ledger, expected: Collection[str] = ()
    ) -> Iterator[tuple[Record, Any]]:
        """As read_records."""
        how = {"format": self.format, "on_bad_row": self.on_bad_row, "expected": expected}
        return read_records(source, kind, ledger, **how)


def read_records(
    source: Source,
    kind: str | None,
    ledger: Ledger,
    *,
    format: str | None,
    on_bad_row: str,
    expected: Collection[str] = (),
) -> Iterator[tuple[Record, Any]]:
    """The usable records of one source, each with the row it came from.

    kind        one of KINDS: what each record is, or can be turned into by as_kind; None: whatever the source holds
    format      a name that require_format takes, or None to recognise it from the first rows
    on_bad_row  "stop" raises InputError at a structural fault, and at the end of the source when
                too many of its rows had a content fault (see `tolerated`); "skip" drops and counts them all
    expected    reasons for which rows are dropped and counted however many there are
    """
    name, variant_of_file = _format_of(source, format and require_format(format, kind), kind)
    _require_kind(source, name, kind)
    ledger.files.append(source.name)
    ledger.formats.append(variant_of_file or name)
    ledger.notes += source.notes
    read, faults, first = 0, Counter(), {}
    for raw in watched(source.name, source.read()):
        ledger.read += 1
        if raw.dropped:
            ledger.drop(raw.dropped, raw.place, raw.value)
            continue
        read += 1
        try:
            found = _parse(raw, name, variant_of_file, ledger.notes, kind)
        except StructuralFault as fault:
            if on_bad_row == "stop":
                raise InputError(f"{raw.place}: {fault} (--on_bad_row skip drops such rows)") from fault
            ledger.drop(BROKEN, raw.place, raw.value, str(fault))
        except ContentFault as fault:
            if fault.reason not in expected:
                faults[fault.reason] += 1
                first.setdefault(tolerated(fault.reason), f"{raw.place}: {fault.reason}")
            ledger.drop(fault.reason, raw.place, raw.value)
        else:
            ledger.leave_unused(source.name, found.unused)
            yield found.record, raw.value
    if on_bad_row == "stop":
        _check_faults(faults, first, read)


def tolerated(reason: str) -> float:
    """The share of a file's rows that may be dropped for this and like reasons."""
    return TOLERATED_EQUAL if reason in EQUALS else TOLERATED


def too_many(faults: Counter, read: int) -> float | None:
    """The tolerated share that the faults of a file exceed; None where they are few."""
    for share in (TOLERATED, TOLERATED_EQUAL):
        if sum(count for reason, count in faults.items() if tolerated(reason) == share) > share * read:
            return share
    return None


def _check_faults(faults: Counter, first: dict[float, str], read: int) -> None:
    """Raise InputError when more rows than are tolerated had a content fault."""
    share = too_many(faults, read)
    if share is not None:
        many = sum(count for reason, count in faults.items() if tolerated(reason) == share)
        raise InputError(
            f"{first[share]}; {many:,} of {read:,} rows of this file have such faults, more than "
            f"{share:.0%}; correct them, or drop them with --on_bad_row skip"
        )


def kind_of(source: Source, format: str | None) -> str:
    """The kind of records that a source holds. Raises InputError when its format is not known."""
    name, _ = _format_of(source, format and require_format(format))
    return next(kind for kind, record in KINDS.items() if record is FORMATS[name].record)


def _parse(raw: RawRow, name: str, expected: str | None, notes: Counter, kind: str | None) -> Reading:
    if raw.fault:
        raise StructuralFault(raw.fault)
    if not isinstance(raw.value, dict):
        raise StructuralFault(f"expected a JSON object, found {type(raw.value).__name__}")
    row = unfolded_row(raw.value)
    found = read_row(name, row, raw.place, notes, kind)
    if expected is not None:
        form = _variant_of(row)
        if form != expected and not (form in WHOLE and expected in WHOLE):
            raise StructuralFault(
                f"mixed formats: this row reads as '{form}' ({keys_of(raw.value)}), the first "
                f"rows of the file as '{expected}'; split the file, or choose with --format"
            )
    return found


def _format_of(source: Source, forced: str | None, kind: str | None = None) -> tuple[str, str | None]:
    """The format's name, and the variant that all rows must have (None when forced)."""
    first = list(islice((row for row in source.read() if not row.dropped), LOOK_AT))
    if not first:
        left = " that --transform keeps" if any(source.read()) else ""
        raise InputError(f"{source.name}: the file holds no row{left}")
    if forced is not None:
        return forced, None
    variants = Counter(v for row in first if (v := _variant_of(row.value)) is not None)
    if not variants:
        raise _not_recognised(first[0], kind)
    expected = variants.most_common(1)[0][0]
    named = next(row for row in first if _variant_of(row.value) == expected)
    if expected == IMPLICIT_TEXT:
        _require_no_question(named)
    if expected in WHOLE:
        answered = next((v for v in variants if v in WHOLE and v != "messages_prompt"), None)
        expected = answered or ("messages" if kind == "prompt" else expected)
        return expected, expected
    return recognise(named.value), expected


def _not_recognised(raw: RawRow, kind: str | None) -> InputError:
    """What to say of a file whose first rows are of no known format."""
    if raw.fault:
        return InputError(f"{raw.place}: {raw.fault}")
    found = keys_of(raw.value) if isinstance(raw.value, dict) else f"a {type(raw.value).__name__}"
    hint = _fields_for(raw.value, kind) if isinstance(raw.value, dict) else ""
    return InputError(
        f"{raw.place}: no known format; found {found}; expected one of\n{format_table()}\n"
        f"(or name the keys with --field{hint and f', such as {hint}'}, or choose with --format)"
    )


def _fields_for(row: dict, kind: str | None) -> str:
    """A --field that may make a row of this kind of records of an unknown one: a guess to begin from, "" for none."""
    conversations = [key for key, value in row.items() if isinstance(value, list) and role_of(next(iter(value), None))]
    if len(conversations) == 1 and kind in ("demonstration", "feedback", "prompt"):
        return f"--field messages={conversations[0]}"
    asks, answers = ASKED[kind]
    if "prompt" not in row and any(row.get(key) for key in CONTEXT):  # which only turns have a place for
        asks, answers = IN_TURNS.get(kind, (asks, answers))
    texts = may_ask(row, *RECORD_KEYS, *CONTEXT, asks)
    questions = [key for key in texts if key.lower() not in ANSWER_NAMES][: asks not in row]
    others = sorted(set(texts) - set(questions), key=lambda key: (key.lower() not in ANSWER_NAMES, texts.index(key)))
    targets = [name for name in (asks, *answers) if name not in row]
    if not targets or len(texts) < len(targets):
        return ""
    return "--field " + ",".join(f"{a}={b}" for a, b in zip(targets, questions + others, strict=False))


def _require_no_question(raw: RawRow) -> None:
    """Raise InputError where a prompt would be guessed from two answers although another column may hold it."""
    if asking := may_ask(raw.value, "chosen", "rejected"):
        raise InputError(
            f"{raw.place}: no prompt among the {keys_of(raw.value)}: the words that both answers begin with would be "
            f"taken for it, but '{asking[0]}' may hold the question. Name it with --field prompt={asking[0]} (and "
            "--format prompt_pairs where its texts are to become messages), or choose --format preference to begin "
            "both answers with their prompt"
        )


def _variant_of(row: Any) -> str | None:
    row = unfolded_row(row) if isinstance(row, dict) else row
    name = recognise(row)
    return None if name is None else variant(name, without_nulls(row))


def _require_kind(source: Source, name: str, kind: str | None) -> None:
    """Stop when the file holds records of another kind than the stage reads."""
    record = FORMATS[name].record
    if kind == "prompt" and name == "text":
        raise InputError(
            f"{source.name}: holds texts without a prompt (format text), which are for sft_train; where the texts are "
            "prompts, name them with --field prompt=text"
        )
    if kind in ("prompt", None) or record is KINDS[kind] or (record, kind) in CONVERSIONS:
        return
    if kind == "feedback":
        _require_label(source)
    wanted = [f"  {n}: {f.keys}" for n, f in FORMATS.items() if f.record is KINDS[kind]]
    row = next((r.value for r in source.read() if isinstance(r.value, dict)), {})
    reason = REASONS.get((record, kind))
    if record is Prompt and (fields := _fields_for(row, kind)):
        reason = f"where other keys hold the answers, name them, as in {fields}"
    raise InputError(
        f"{source.name}: holds {plural(record)} (format {name}, found {keys_of(row)}), which are for "
        f"{READ_BY[record]}; this stage needs {plural(KINDS[kind])}{f' ({reason})' if reason else ''}:\n"
        + "\n".join(wanted)
    )


def _require_label(source: Source) -> None:
    """Raise InputError for a row whose label is why it was not taken for feedback."""
    for raw in islice(source.read(), LOOK_AT):
        if isinstance(raw.value, dict) and any(key in raw.value for key in LABELS):
            try:
                label(raw.value)
            except StructuralFault as fault:
                raise InputError(f"{raw.place}: {fault}") from fault

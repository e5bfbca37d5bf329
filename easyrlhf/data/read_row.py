"""One row: the format that it is written in, and the record that it becomes, with everything that it says."""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from easyrlhf.data.formats import FORMATS
from easyrlhf.data.keys import (
    ANSWERS,
    NAMED,
    PASSED,
    USED,
    Row,
    fates,
    unused_in_answers,
    unused_in_turns,
    with_columns,
)
from easyrlhf.data.messages import unfolded
from easyrlhf.data.nemo_gym import TEMPLATE
from easyrlhf.data.raw import Cell
from easyrlhf.data.records import Demonstration, Prompt, Record

LISTED = ("completions", "scores", "ranks", "answers")  # of rankings
UNFOLDED = ("messages", "conversations", "prompt", "completion", "chosen", "rejected", "rejected_messages")
# Keys that tell formats apart, null where a table of several formats has a row of another.
TELLING = (*UNFOLDED, "rejected_response", "chosen_response", *LISTED, "instruction", "question", "query", "text")
IMPLICIT = ", implicit prompt"
IMPLICIT_TEXT = f"preference, standard{IMPLICIT}"


@dataclass(frozen=True)
class Reading:
    """A row as it was read.

    record  what it says, with its columns
    fates   what became of each of its keys (data/keys.py)
    unused  keys of the row and of its turns (`messages[].id`) of which the record holds nothing, or a column alone
    """

    record: Record
    fates: dict[str, str]
    unused: list[str]


def read_row(name: str, row: dict, place: str, notes: Counter, kind: str | None = None) -> Reading:
    """Read a row of this format, with everything that it says.

    kind   of records that are wanted; for "prompt" the record is a Prompt, and what the row answers stays a column
    notes  counts of what was done out of the ordinary
    Raises StructuralFault, which names the key, and ContentFault.
    """
    form, prompts = FORMATS[name], kind == "prompt"
    if form.whole:
        record = replace(form.parse(row, notes), place=place)
        return Reading(record, {key: USED if key in (*form.asks, *TEMPLATE) else PASSED for key in row}, [])
    row = unfolded_row(row)
    bare = without_nulls(row)
    seen = Row(bare if _recognised(bare) == name else row)
    record = (form.ask if prompts and form.ask else form.parse)(seen, notes)
    record = record.as_prompt() if prompts else record
    found = fates(seen, record, form.asks, form.record is Demonstration, prompts)
    record = with_columns(record, seen, found, notes)
    nulls = [key for key in row if key not in seen]
    found |= dict.fromkeys(nulls, PASSED if prompts else NAMED)
    record = replace(record, columns=record.columns | dict.fromkeys(nulls), place=place)
    named = [key for key, fate in found.items() if fate == NAMED]
    used = {key for key, fate in found.items() if fate == USED}
    return Reading(record, found, named + unused_in_turns(seen, seen.looked_at) + unused_in_answers(seen, used))


def unfolded_row(row: dict) -> dict:
    """The row with messages in the places of strings that hold them as JSON, and with the lists of a table's cells.

    A row that goes to a server as it is stays as it is.
    """
    if FORMATS["nemo_gym"].recognise(row):
        return row
    found = {key: unfolded(row[key]) for key in UNFOLDED if isinstance(row.get(key), str)}
    found |= {key: format_list(row[key]) for key in LISTED if isinstance(row.get(key), Cell)}
    return row | found if found else row


def format_list(cell: Cell) -> Any:
    """The list that the cell of a table holds as JSON; any other cell as it is."""
    with suppress(ValueError):
        found = json.loads(cell)
        return found if isinstance(found, list) else cell
    return cell


def recognise(row: Any) -> str | None:
    """The name of the format a row is written in, or None."""
    if not isinstance(row, dict):
        return None
    return _recognised(without_nulls(unfolded_row(row)))


def _recognised(row: dict) -> str | None:
    return next((name for name, form in FORMATS.items() if form.recognise and form.recognise(row)), None)


def without_nulls(row: dict) -> dict:
    """An unfolded row without null keys of other formats than its own, if it can be read without them.

    A null of its own format stays, and so does one that leaves a question alone or texts without their prompt: such a
    row has a fault.
    """
    nulls = [key for key in TELLING if key in row and row[key] is None]
    if not nulls:
        return row
    bare = {key: value for key, value in row.items() if key not in nulls}
    name = _recognised(bare)
    form = name and variant(name, bare)
    if form in (None, IMPLICIT_TEXT) or (name == _recognised(row) and not form.endswith(IMPLICIT)):
        return row
    return row if FORMATS[name].record is Prompt and any(key in ANSWERS for key in nulls) else bare


def variant(name: str, row: dict) -> str:
    """A format's name and the form of this row, unfolded: rows of one file must agree on both."""
    keyed = [key for key in ("prompt", "chosen", "rejected") if key in row]
    if name not in ("preference", "prompt_completion", "unpaired", "ranking", "prompt") or not keyed:
        return name
    form = "conversational" if isinstance(row[keyed[0]], list) else "standard"
    return f"{name}, {form}" + (IMPLICIT if keyed[0] != "prompt" else "")

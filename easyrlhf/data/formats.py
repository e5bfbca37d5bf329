"""The row formats: one table of name -> who recognises a row, who turns it into a record."""

import difflib
import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from easyrlhf.data import comparisons, conversations, hh, rankings
from easyrlhf.data.axolotl import SPELLINGS
from easyrlhf.data.fields import is_label, may_ask
from easyrlhf.data.keys import ANSWERS, NAMED, PASSED, Row, fates, unused_in_turns, with_columns
from easyrlhf.data.messages import role_of, unfolded
from easyrlhf.data.raw import Cell
from easyrlhf.data.records import Comparison, Demonstration, Feedback, Prompt, Ranking, Record
from easyrlhf.errors import InputError

FORCED = "only with --format"
LISTED = ("completions", "scores", "ranks", "answers")  # of rankings
UNFOLDED = ("messages", "conversations", "prompt", "completion", "chosen", "rejected", "rejected_messages")
# Keys that tell formats apart, null where a table of several formats has a row of another.
TELLING = (*UNFOLDED, "rejected_response", "chosen_response", *LISTED, "instruction", "question", "query", "text")
IMPLICIT = ", implicit prompt"
IMPLICIT_TEXT = f"preference, standard{IMPLICIT}"


@dataclass(frozen=True)
class Format:
    """One way to write a row.

    keys       what a row holds, for messages and help
    record     the kind of record it becomes
    recognise  row -> whether it is written this way (looking at keys first); None for a layout that cannot be told
               apart from another one, which --format must name
    parse      (row, notes) -> record; raises StructuralFault or ContentFault
    asks       the keys that are wholly in the prompt; others are passed on where prompts are read
    ask        like parse, where prompts are read and the row may end before the answer
    """

    keys: str
    record: type
    recognise: Callable[[dict], bool] | None
    parse: Callable[[dict, Counter], Record]
    asks: tuple[str, ...] = ()
    ask: Callable[[dict, Counter], Record] | None = None


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
    return Reading(record, found, named + unused_in_turns(seen, seen.looked_at))


def unfolded_row(row: dict) -> dict:
    """The row with messages in the places of strings that hold them as JSON, and with the lists of a table's cells."""
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


def require_format(name: str, kind: str | None = None) -> str | None:
    """Our name of a format that was named in our words or in axolotl's; None where it is to be recognised.

    kind  of records that are wanted: axolotl calls rows for KTO (`feedback`) by the names of its comparisons
    Raises InputError, with the nearest name, for one that is not known.
    """
    if name in FORMATS:
        return name
    if name in SPELLINGS:
        paired, unpaired = SPELLINGS[name]
        return unpaired if kind == "feedback" else paired
    near = difflib.get_close_matches(name, [*FORMATS, *SPELLINGS], 1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise InputError(f"unknown format '{name}'; use one of {', '.join(FORMATS)}{hint}")


def format_table() -> str:
    """All formats with their keys, one a line, for messages."""
    forced = {True: "", False: f" ({FORCED} NAME)"}
    return "\n".join(f"  {name}: {form.keys}{forced[form.recognise is not None]}" for name, form in FORMATS.items())


def _texts(row: dict) -> bool:
    """Whether a row compares two answers that are single texts, and has no `prompt`."""
    pair = [row[key] for key in ("chosen", "rejected") if key in row]
    return bool(pair) and "prompt" not in row and not any(isinstance(answer, list | dict) for answer in pair)


def _rejects(row: dict) -> bool:
    return "rejected_response" in row or "rejected_messages" in row


def _liked(row: dict, key: str, *answers: str) -> bool:
    """Whether a row has a single answer with a label, to the question in this key."""
    answered = any(answer in row for answer in answers or ("completion",))
    return key in row and "prompt" not in row and answered and _labelled(row)


def _labelled(row: dict) -> bool:
    """Whether a row says if its answer was liked; LLaMA-Factory's key means nothing else, whatever its value."""
    return "kto_tag" in row or is_label(row.get("label"))


def _unanswered(row: dict) -> bool:
    """Whether a row's messages are a conversation, of roles that are known, in which the assistant has not spoken."""
    roles = {role_of(turn) for turn in _list(row, comparisons.conversation_key(row))}
    return bool(roles) and not roles & {"assistant", None}


def _list(row: dict, key: str) -> list:
    return row[key] if isinstance(row.get(key), list) else []


# The order decides: the first recogniser that agrees names the row's format.
PAIR = ("chosen", "rejected", "margin")
CONVERSATION = ("messages", "conversations")
WHOLE = ("messages", "sharegpt", "messages_prompt")  # formats whose rows may stand in one file: all are read alike
FORMATS: dict[str, Format] = {
    "hh": Format(
        "chosen, rejected: transcripts with '\\n\\nHuman:' and '\\n\\nAssistant:'",
        Comparison,
        lambda row: "prompt" not in row and any(hh.is_transcript(row.get(key)) for key in ("chosen", "rejected")),
        comparisons.parse_hh,
    ),
    "ultra": Format(
        "prompt: string; chosen, rejected: whole conversations [, system] [, margin]",
        Comparison,
        lambda row: isinstance(row.get("prompt"), str) and bool(_list(row, "chosen") and _list(row, "rejected")),
        comparisons.parse_ultra,
        asks=("prompt",),
    ),
    "messages_pairs": Format(
        "messages: list of {role, content} or {from, value}, up to the answer; chosen, rejected: string or one turn "
        "[, margin]",
        Comparison,
        lambda row: (
            "prompt" not in row
            and comparisons.has_conversation(row)
            and any(isinstance(row.get(key), str | dict) for key in ("chosen", "rejected"))
        ),
        comparisons.parse_messages_pairs,
        asks=CONVERSATION,
    ),
    "swift": Format(
        "messages: list of {role, content} with the chosen answer, or query, response [, history]; rejected_response: "
        "string or messages, or rejected_messages [, margin]",
        Comparison,
        lambda row: (comparisons.has_conversation(row) or "query" in row) and _rejects(row),
        comparisons.parse_swift,
        asks=(*CONVERSATION, "query"),
        ask=conversations.parse_conversation_prompt,
    ),
    "intel": Format(
        "question, chosen, rejected [, system] [, margin]: strings",
        Comparison,
        lambda row: _texts(row) and "question" in row,
        comparisons.asking("question"),
        asks=("question",),
    ),
    "argilla": Format(
        "instruction [, input] [, system]; chosen and rejected, or chosen_response and rejected_response: strings "
        "[, margin]",
        Comparison,
        lambda row: (_texts(row) and "instruction" in row) or "chosen_response" in row or "rejected_response" in row,
        comparisons.parse_argilla,
        asks=("instruction", "input", "prompt", "question", "query"),
    ),
    "icr": Format(
        "input, chosen, rejected [, system] [, margin]: strings",
        Comparison,
        lambda row: _texts(row) and "input" in row,
        comparisons.asking("input"),
        asks=("input",),
    ),
    "preference": Format(
        "chosen, rejected [, prompt] [, margin]: strings or messages",
        Comparison,
        lambda row: "chosen" in row or "rejected" in row,
        comparisons.parse_preference,
        asks=("prompt",),
    ),
    "prompt_pairs": Format(
        "prompt, chosen, rejected [, system] [, margin]: strings that become messages",
        Comparison,
        None,
        comparisons.asking("prompt"),
        asks=("prompt",),
    ),
    "ranking": Format(
        "prompt; completions: list of strings or of messages; scores (higher is better) or ranks (1 is best): numbers",
        Ranking,
        lambda row: (
            isinstance(row.get("completions"), list) and "prompt" in row and ("scores" in row or "ranks" in row)
        ),
        rankings.parse_ranking,
        asks=("prompt",),
    ),
    "nectar": Format(
        "prompt: a question, or a transcript as in hh; answers: list of {answer, rank} (1 is best)",
        Ranking,
        lambda row: "prompt" in row and any(isinstance(a, dict) and "rank" in a for a in _list(row, "answers")),
        rankings.parse_nectar,
        asks=("prompt",),
    ),
    "ultrafeedback": Format(
        "instruction; completions: list of {response, overall_score}",
        Ranking,
        lambda row: "instruction" in row and isinstance(row.get("completions"), list),
        rankings.parse_ultrafeedback,
        asks=("instruction",),
    ),
    "argilla_kto": Format(
        "instruction [, input] [, system]; completion, or output: strings; label: true or false",
        Feedback,
        lambda row: _liked(row, "instruction", "completion", "output"),
        conversations.parse_argilla_kto,
        asks=("instruction", "input"),
    ),
    "intel_kto": Format(
        "question, completion [, system]: strings; label: true or false",
        Feedback,
        lambda row: _liked(row, "question"),
        conversations.answer_to("question"),
        asks=("question",),
    ),
    "argilla_chat_kto": Format(
        "completion: a whole conversation; label: true or false",
        Feedback,
        lambda row: _liked(row, "completion") and isinstance(row["completion"], list),
        conversations.parse_labelled_chat,
    ),
    "unpaired": Format(
        "prompt, completion: strings or messages; label: true or false",
        Feedback,
        lambda row: "completion" in row and _labelled(row),
        conversations.parse_unpaired,
        asks=("prompt",),
    ),
    "prompt_pairs_kto": Format(
        "prompt, completion [, system]: strings that become messages; label: true or false",
        Feedback,
        None,
        conversations.answer_to("prompt"),
        asks=("prompt",),
    ),
    "swift_kto": Format(
        "messages, or conversations: list of turns; or query, response [, history]; label: true or false",
        Feedback,
        lambda row: (comparisons.has_conversation(row) or ("query" in row and "response" in row)) and _labelled(row),
        conversations.parse_swift_kto,
        asks=(*CONVERSATION, "query"),
        ask=conversations.parse_conversation_prompt,
    ),
    "prompt_completion": Format(
        "prompt, completion: strings or messages",
        Demonstration,
        lambda row: "completion" in row,
        conversations.parse_prompt_completion,
        asks=("prompt",),
    ),
    "messages_prompt": Format(
        "messages: list of {role, content} that ends before the answer (recognised when the assistant never speaks)",
        Prompt,
        _unanswered,
        conversations.parse_messages_prompt,
        asks=CONVERSATION,
    ),
    "messages": Format(
        "messages: list of {role, content}",
        Demonstration,
        lambda row: "messages" in row,
        conversations.parse_conversation,
        asks=CONVERSATION,
        ask=conversations.parse_conversation_prompt,
    ),
    "sharegpt": Format(
        "conversations: list of {from, value} (ShareGPT, SlimOrca)",
        Demonstration,
        lambda row: "conversations" in row,
        conversations.parse_conversation,
        asks=CONVERSATION,
        ask=conversations.parse_conversation_prompt,
    ),
    "query_response": Format(
        "query, response [, system]: strings [, history: list of [question, answer]]",
        Demonstration,
        lambda row: "query" in row and "response" in row,
        conversations.parse_query_response,
        asks=("query",),
    ),
    "alpaca": Format(
        "instruction, output [, input] [, system] [, history]: strings",
        Demonstration,
        lambda row: "instruction" in row,
        conversations.parse_alpaca,
        asks=("instruction", "input"),
    ),
    "prompt": Format(
        "prompt: string or messages, and any other columns",
        Prompt,
        lambda row: "prompt" in row,
        conversations.parse_prompt,
        asks=("prompt",),
    ),
    "text": Format(
        "text: a string, all of which is learned",
        Demonstration,
        lambda row: "text" in row and not may_ask(row, "text") and role_of(row) is None,
        conversations.parse_text,
    ),
}

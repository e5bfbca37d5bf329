"""What becomes of the keys of a row: used, passed on as columns, refused by name, or named as not used."""

from collections import Counter
from dataclasses import replace
from typing import Any

from easyrlhf.data.json_values import from_json, kind_of_value
from easyrlhf.data.messages import (
    EMPTY,
    MEDIA,
    MESSAGE_KEYS,
    SWITCHES,
    SYSTEM,
    THOUGHT_KEYS,
    content_of,
    refuse_media,
    switched_off,
    thoughts_beside,
)
from easyrlhf.data.records import Demonstration, Messages, Prompt, Record, answers_of
from easyrlhf.data.row_errors import StructuralFault

SYSTEM_KEYS = ("system", "system_prompt", "system_message")
TOOLS = ("tools", "functions")
ARGUMENTS = ("chat_template_kwargs", "template_kwargs")
THINKING = "enable_thinking"
HISTORY = "history"
BACKGROUND = "context"
# What a row may hold beside the texts that its format names, and what is made of it where there are turns.
CONTEXT = (*SYSTEM_KEYS, *TOOLS, *ARGUMENTS, THINKING)
# Keys that hold a row's answers, or say something of them.
ANSWERS = (
    *("completion", "response", "output", "chosen", "rejected", "chosen_response", "rejected_response"),
    *("rejected_messages", "completions", "answers", "scores", "ranks", "margin", "label", "kto_tag"),
    "chosen_probability",
)
RANKED = ("answer", "rank", "response", "overall_score")  # what is read of a ranked answer
USED, PASSED, REFUSED, NAMED = "used", "passed", "refused", "named"
TWO_SYSTEMS = "rows with a system key beside a system turn of their own, which is kept"


class Row(dict):
    """A row that remembers at which of its keys a parser has looked, for these are the ones that it used."""

    def __init__(self, row: dict):
        super().__init__(row)
        self.looked_at: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.looked_at.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, or the default."""
        self.looked_at.add(key)
        return super().get(key, default)


def fates(row: Row, record: Record, asks: tuple[str, ...], demonstrates: bool, prompts: bool) -> dict[str, str]:
    """What becomes of each key: USED, PASSED on as a column, REFUSED where it holds anything, or NAMED as not used.

    record        what the row's parser made of it
    asks          keys that are wholly in the prompt
    demonstrates  the format is one of demonstrations: thoughts beside an answer would be learned
    prompts       prompts are read, and columns go to reward functions
    """
    plain = isinstance(record.prompt, str)

    def out_of_place(key: str, value: Any) -> bool:
        """Whether a key that nothing has used says what would change the meaning of the row."""
        turns = key == HISTORY and isinstance(value, list)
        thoughts = key in thoughts_beside(row) and demonstrates and not prompts
        background = key == BACKGROUND and not prompts and _is_asked_about(value, record.prompt)
        return key in MEDIA or key in CONTEXT or turns or thoughts or background

    def fate(key: str, value: Any) -> str:
        if key in row.looked_at and (key in asks or key == HISTORY):
            return USED
        if key in CONTEXT and not plain:
            return USED
        if key in row.looked_at:
            return PASSED if prompts else USED
        if out_of_place(key, value) and value not in EMPTY:
            return REFUSED
        return PASSED if prompts else NAMED

    return {key: fate(key, value) for key, value in row.items()}


def with_columns(record: Record, row: Row, found: dict[str, str], notes: Counter) -> Record:
    """The record with all that its row holds beside its texts: system text and columns.

    found  the fates of the row's keys
    Raises StructuralFault, with the key, for what cannot be used and must not be lost.
    """
    values = dict(row)
    for key, fate in found.items():
        if fate == REFUSED:
            _refuse(key, values[key])
    _refuse_switches(record, values)
    columns = {key: values[key] for key, fate in found.items() if fate in (PASSED, NAMED)}
    plain = isinstance(record.prompt, str)
    columns |= {} if plain else template_columns(values)
    if isinstance(record, Prompt):  # it may bring an answer of its own
        held = tuple(key for key, fate in found.items() if fate == PASSED and key in ANSWERS)
        record = replace(record, columns=columns | record.columns, answers=(*held, *record.answers))
    else:
        record = replace(record, columns=columns)
    if plain:
        return record
    prompt = [{key: value for key, value in turn.items() if key != "learned"} for turn in record.prompt]
    return replace(record, prompt=_with_system(prompt, system_text(values), notes))


def unused_in_turns(row: dict, keys: set[str]) -> list[str]:
    """The keys of the turns below these keys of the row that are not used, `messages[].id` say."""
    return [
        f"{key}[].{name}"
        for key, value in row.items()
        if key in keys
        for name in sorted({str(name) for turn in turns_in(value) for name in turn.keys() - MESSAGE_KEYS})
    ]


def unused_in_answers(row: dict, keys: set[str]) -> list[str]:
    """The keys of ranked answers below these keys of the row that are not used, `completions[].critique` say."""
    return [
        f"{key}[].{name}"
        for key in sorted(keys & {"answers", "completions"})
        for name in sorted({str(name) for answer in row.get(key) or () if is_ranked(answer) for name in answer})
        if name not in RANKED
    ]


def is_ranked(answer: Any) -> bool:
    """Whether this is an answer of Nectar's or UltraFeedback's, an object with its rank or its score."""
    return isinstance(answer, dict) and bool(answer.keys() & {"rank", "overall_score"})


def turns_in(value: Any) -> list[dict]:
    """The turns that a key holds: as a list of them, as a single one, or as a list of such lists."""
    if isinstance(value, dict):
        return [value] if "role" in value or "from" in value else []
    if not isinstance(value, list):
        return []
    return [turn for item in value for turn in turns_in(item)]


def system_text(row: dict) -> str:
    """The text of the row's system key; "" where there is none."""
    found = [key for key in SYSTEM_KEYS if row.get(key)]
    texts = [content_of(row[key], key)[0] for key in found]
    if len(set(texts)) > 1:
        raise StructuralFault(f"keys {' and '.join(found)}: hold two different system texts; keep one")
    return texts[0] if texts else ""


def template_columns(row: dict) -> dict[str, Any]:
    """The columns that the chat template gets: `tools`, and `chat_template_kwargs` with `enable_thinking` in it."""
    tools_key = next((key for key in TOOLS if row.get(key)), None)
    tools = from_json(row[tools_key], tools_key, "a list of tools") if tools_key else []
    if not isinstance(tools, list) or any(not isinstance(tool, dict) for tool in tools):
        raise StructuralFault(f"key '{tools_key}': expected a list of objects, found {kind_of_value(tools)}")
    kwargs: dict[str, Any] = {}
    for key in ARGUMENTS:
        found = from_json(row.get(key) or {}, key, "an object")
        if not isinstance(found, dict):
            raise StructuralFault(
                f"key '{key}': expected an object of template arguments, found {kind_of_value(found)}"
            )
        kwargs |= {name: value for name, value in found.items() if value is not None}
    if row.get(THINKING) is not None:
        if not isinstance(row[THINKING], bool):
            raise StructuralFault(f"key '{THINKING}': expected true or false, found {kind_of_value(row[THINKING])}")
        kwargs.setdefault(THINKING, row[THINKING])
    return ({"tools": tools} if tools else {}) | ({"chat_template_kwargs": kwargs} if kwargs else {})


def _with_system(prompt: Messages, text: str, notes: Counter) -> Messages:
    if not text:
        return prompt
    if any(turn["role"] in SYSTEM for turn in prompt[:1]):
        notes[TWO_SYSTEMS] += prompt[0]["content"] != text
        return prompt
    return [{"role": "system", "content": text}, *prompt]


def _is_asked_about(value: Any, prompt: str | Messages) -> bool:
    """Whether a text of several words, which could be what the question is about, stands nowhere in the prompt."""
    words = value.split() if isinstance(value, str) else []
    asked = prompt if isinstance(prompt, str) else " ".join(turn["content"] for turn in prompt)
    return len(words) > 1 and " ".join(words) not in " ".join(asked.split())


def _refuse(key: str, value: Any) -> None:
    """Raise for a key that says something which this row has no place for."""
    refuse_media({key: value})
    if key == HISTORY:
        raise StructuralFault(
            "key 'history': earlier turns stand in the messages themselves in this format; put them there"
        )
    if key == BACKGROUND:
        raise StructuralFault(
            f"key '{key}': its text stands nowhere in the prompt, and the question may be about it; write it there, as "
            f"--field 'instruction={{{key}}} {{instruction}},{key}=', or take the key out with --field {key}="
        )
    if key in THOUGHT_KEYS:
        raise StructuralFault(
            f"key '{key}': thoughts stand in the answer's own turn, as its 'reasoning_content'; move them there with "
            f"--transform, or take the key out with --field {key}="
        )
    raise StructuralFault(
        f"key '{key}': has no place beside a prompt that is plain text. Give messages (--format prompt_pairs makes "
        f"turns of strings), write it into the text with --field 'prompt={{{key}}} {{prompt}},{key}=', or take the key "
        f"out with --field {key}="
    )


def _refuse_switches(record: Record, row: dict) -> None:
    """Raise for a comparison, ranking or feedback of which a turn is switched off: an answer is judged as a whole."""
    turns = [answer for answer in answers_of(record) if not isinstance(answer, str)]
    if isinstance(record, Demonstration) or not any(map(switched_off, turns)):
        return
    turns = [turn for value in row.values() for turn in turns_in(value)]
    name = next(name for turn in turns for name in SWITCHES if turn.get(name) is not None)
    raise StructuralFault(
        f"key '{name}' switches off a turn of an answer that is judged as a whole; only sft_train learns single turns"
    )

"""Reading single fields of a row: each returns the value or says what was found and expected."""

import difflib
import math
import re
from contextlib import suppress
from typing import Any

from easyrlhf.data.json_values import from_json, kind_of_value
from easyrlhf.data.messages import is_empty, messages, thoughts_beside
from easyrlhf.data.raw import Cell
from easyrlhf.data.records import Messages
from easyrlhf.data.row_errors import ContentFault, StructuralFault

NO_PROMPT = "no prompt before the answer"
LABELS = ("label", "kto_tag")
QUESTION_NAMES = frozenset(
    ("query", "question", "problem", "instruction", "input", "context", "user", "human", "request", "post", "prompt")
)
# Keys that say something about a row, and hold neither question nor answer.
ABOUT_A_ROW = re.compile(
    r"(^|_)(id|ids|uuid|hash|source|dataset|subset|split|category|categories|topic|domain|type|kind|lang|language|model|"
    r"models|annotator|author|date|time|timestamp|url|path|file|license|reason|rationale|explanation|comment|notes?)$",
    re.I,
)
LIKED = {True: True, False: False, "true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


def need(row: dict, key: str) -> Any:
    """The value of a key that the format asks for; null counts as missing."""
    if row.get(key) is not None:
        return row[key]
    if key in row:
        raise StructuralFault(f"key '{key}' is null; expected a value")
    near = difflib.get_close_matches(key, [k for k in row if isinstance(k, str)], 1)
    hint = f"; did you mean '{near[0]}' to be '{key}'?" if near else ""
    raise StructuralFault(f"missing key '{key}'; found {keys_of(row)}{hint}")


def keys_of(row: dict) -> str:
    """The keys of a row, for messages."""
    return "keys " + ", ".join(map(str, row)) if row else "no key at all"


def may_ask(row: dict, *besides: str) -> list[str]:
    """Keys of a row, beside these, whose text could be its question, the likelier ones first."""
    texts = {k: v.strip() for k, v in row.items() if k not in besides and isinstance(v, str) and v.strip()}
    named = [key for key in texts if key.lower() in QUESTION_NAMES]
    wordy = [key for key, value in texts.items() if " " in value and not ABOUT_A_ROW.search(key)]
    return named + [key for key in wordy if key not in named]


def text(value: Any, key: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise StructuralFault(f"key '{key}': expected a string, found {kind_of_value(value)}")
    return value


def list_items(value: Any, key: str) -> list:
    """A list of anything."""
    if not isinstance(value, list):
        raise StructuralFault(f"key '{key}': expected a list, found {kind_of_value(value)}")
    return value


def objects(value: Any, key: str, *names: str) -> list[tuple]:
    """The values of these keys in every object of a list; none may be missing."""
    found = []
    for i, item in enumerate(list_items(value, key)):
        _check_object(item, f"{key}[{i}]", *names)
        found.append(tuple(item[name] for name in names))
    return found


def question_turn(row: dict, question: str) -> Messages:
    """A question as a user turn, behind the earlier questions and answers in the row's `history`."""
    if not question.strip():
        raise ContentFault(NO_PROMPT)
    return [*earlier_turns(row), {"role": "user", "content": question}]


def earlier_turns(row: dict) -> Messages:
    """The turns of `history`, a list of questions with their answers."""
    turns: Messages = []
    history = row.get("history") or []
    if isinstance(history, str) and history.lstrip().startswith("["):
        history = from_json(history, "history", "a list")
    for i, pair in enumerate(list_items(history, "history")):
        if len(list_items(pair, f"history[{i}]")) != 2:
            raise StructuralFault(f"key 'history[{i}]': expected a question and its answer, found {len(pair)} items")
        question, answer = (text(item, f"history[{i}]") for item in pair)
        turns += [{"role": "user", "content": question}, *answer_turn(answer)]
    return turns


def answer_turn(answer: str, thought: str = "") -> Messages:
    """An answer as an assistant turn, perhaps with the thoughts that led to it."""
    return [{"role": "assistant", "content": answer} | ({"reasoning_content": thought} if thought else {})]


def only_answer(row: dict, *keys: str) -> Messages:
    """The one answer of a row, under the first of these keys that it has, with the row's thoughts where there are."""
    key = next((key for key in keys if row.get(key) is not None), keys[0])
    thoughts = {name: text(row[name], name) for name in thoughts_beside(row)}
    if len(set(thoughts.values())) > 1:
        raise StructuralFault(f"keys {' and '.join(thoughts)}: hold different thoughts; keep one")
    return answer_turn(text(need(row, key), key), next(iter(thoughts.values()), ""))


def instructed(row: dict) -> Messages:
    """Alpaca's question: `instruction`, and below it `input` where there is one."""
    parts = [text(need(row, "instruction"), "instruction")]
    if row.get("input") is not None:
        parts.append(text(row["input"], "input"))
    return question_turn(row, "\n".join(part for part in parts if part.strip()))


def last_answer(turns: Messages) -> tuple[Messages, Messages]:
    """A conversation cut before its last turn, which must be the assistant's."""
    if not any(turn["role"] == "assistant" for turn in turns):
        raise ContentFault("no assistant turn")
    if turns[-1]["role"] != "assistant":
        raise ContentFault("no assistant turn at the end")
    return turns[:-1], turns[-1:]


def _check_object(value: Any, key: str, *names: str) -> None:
    """Raise unless the value is an object that has all these keys, none of them null."""
    if not isinstance(value, dict):
        wanted = " and ".join(f"'{name}'" for name in names)
        raise StructuralFault(f"key '{key}': expected an object with {wanted}, found {kind_of_value(value)}")
    for name in names:
        if value.get(name) is None:
            raise StructuralFault(f"key '{key}': missing key '{name}'; found {keys_of(value)}")


def text_or_messages(value: Any, key: str) -> str | Messages:
    """A string or messages: a list of them, or the single one."""
    if isinstance(value, str):
        return text(value, key)
    if isinstance(value, list | dict):
        return messages(value if isinstance(value, list) else [value], key)
    raise StructuralFault(f"key '{key}': expected a string or messages, found {kind_of_value(value)}")


def same_form(prompt: str | Messages, completion: str | Messages, key: str) -> None:
    """Raise when one is a string and the other a conversation."""
    if isinstance(prompt, str) is not isinstance(completion, str):
        found = "a string" if isinstance(completion, str) else "messages"
        wanted = "a string" if isinstance(prompt, str) else "messages"
        raise StructuralFault(f"key '{key}' is {found} but 'prompt' is {wanted}; use one form")


def finite_number(value: Any, key: str) -> float:
    """A finite number, perhaps in the cell of a table."""
    if isinstance(value, Cell):
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise StructuralFault(f"key '{key}': expected a number, found {kind_of_value(value)}")
    if (isinstance(value, int) and abs(value) > 10**15) or not math.isfinite(value):
        raise StructuralFault(f"key '{key}': expected a finite number, found {str(value)[:30]}")
    return float(value)


def optional_number(row: dict, key: str) -> float | None:
    """The number under a key; None where it is missing, null or an empty cell."""
    value = row.get(key)
    return None if value is None or (isinstance(value, Cell) and not value.strip()) else finite_number(value, key)


def label(row: dict) -> bool:
    """Whether the row's answer was liked: true or false, 1 or 0, or these as texts."""
    key = next((name for name in LABELS if row.get(name) is not None), LABELS[0])
    value = need(row, key)
    if not is_label(value):
        raise StructuralFault(f"key '{key}': expected true or false (or 1, 0), found {kind_of_value(value)}")
    return LIKED[value.strip().lower() if isinstance(value, str) else value]


def is_label(value: Any) -> bool:
    """Whether a value says that an answer was liked, or that it was not."""
    return not isinstance(value, list | dict) and (value.strip().lower() if isinstance(value, str) else value) in LIKED


def check_prompt(prompt: str | Messages) -> None:
    """A prompt says something, and does not end with the answer."""
    check_question(prompt)
    if not isinstance(prompt, str) and prompt[-1]["role"] == "assistant":
        raise StructuralFault("the prompt ends with an assistant turn; expected a user turn")


def check_question(prompt: str | Messages) -> None:
    """A prompt says something; it may end with an answer that has begun."""
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        raise ContentFault(NO_PROMPT)


def check_completion(completion: str | Messages, key: str) -> None:
    """A completion starts and ends with the assistant, and its last turn says something."""
    if isinstance(completion, str):
        if not completion.strip():
            raise ContentFault("empty completion")
        return
    if not any(turn["role"] == "assistant" for turn in completion):
        raise ContentFault("no assistant turn")
    if completion[0]["role"] != "assistant":
        raise StructuralFault(
            f"key '{key}': the first turn is the {completion[0]['role']}'s; a completion starts "
            "with the assistant (repeat no prompt in it, or leave the key 'prompt' out)"
        )
    if completion[-1]["role"] != "assistant":
        raise ContentFault("no assistant turn at the end")
    if is_empty(completion[-1]):
        raise ContentFault("empty completion")

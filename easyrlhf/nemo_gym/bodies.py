"""What NeMo Gym's servers are sent and send: items of OpenAI's Responses API, and the answer of a verifier."""

import json
import math
from collections.abc import Iterable
from typing import Any

from easyrlhf.data.nemo_gym import REQUEST
from easyrlhf.data.records import Message, Messages
from easyrlhf.errors import InputError

POLICY = "policy"
GymRow = dict[str, Any]
OutputItem = dict[str, Any]


class BadAnswer(ValueError):
    """An answer of a server that is not what it must be; the text says what is wrong with it."""


def verify_body(row: GymRow, said: Messages) -> GymRow:
    """The body of POST /verify: the row, and what was said to it as a response.

    said  the turns since the prompt: the policy's, and results of tools
    """
    response = {
        "id": "resp_0",
        "created_at": 0,
        "model": POLICY,
        "object": "response",
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "output": output_items(said),
    }
    return row | {"response": response}


def output_items(said: Messages) -> list[OutputItem]:
    """The items of a response, in the order in which they came about.

    A turn of the policy is a message and its calls; the message is left out where there are calls and no text.
    """
    items: list[OutputItem] = []
    for turn in said:
        if turn["role"] == "tool":
            output = {"type": "function_call_output", "call_id": turn["tool_call_id"], "output": turn["content"]}
            items.append(output)
            continue
        calls = turn.get("tool_calls") or []
        if turn["content"] or not calls:
            items.append(message_item(turn, f"msg_{len(items)}"))
        items += [call_item(call) for call in calls]
    return items


def message_item(turn: Message, name: str) -> OutputItem:
    """What the policy said, as an item of this id."""
    return {
        "id": name,
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": turn["content"], "annotations": []}],
    }


def call_item(call: dict[str, Any]) -> OutputItem:
    """A call of the policy's as an item."""
    function = call["function"]
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {
        "id": call["id"],
        "type": "function_call",
        "status": "completed",
        "call_id": call["id"],
        "name": function["name"],
        "arguments": text,
    }


def reward_of(answer: Any) -> tuple[float, dict[str, float]]:
    """The reward in a verifier's answer, and its components by name. Raises BadAnswer."""
    if not isinstance(answer, dict) or "reward" not in answer:
        raise BadAnswer("must be an object with 'reward'")
    components = answer.get("reward_components") or {}
    if not isinstance(components, dict):
        raise BadAnswer("'reward_components' must be an object of numbers")
    check_numbers([("reward", answer["reward"]), *components.items()])
    return float(answer["reward"]), {name: float(value) for name, value in components.items()}


def check_numbers(named: Iterable[tuple[str, Any]]) -> None:
    """Raise BadAnswer for one that is no finite number."""
    for name, value in named:
        finite = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
        if not finite:
            raise BadAnswer(f"'{name}' is {value!r}, which is no finite number")


def with_seed(row: GymRow, seed: int) -> GymRow:
    """The row with a seed that its agent's model server hands on to the policy."""
    request = row[REQUEST]
    metadata = request.get("metadata") or {}
    body = json.loads(metadata.get("extra_body") or "{}") | {"seed": seed}
    return row | {REQUEST: request | {"metadata": metadata | {"extra_body": json.dumps(body)}}}


def check_extra_body(row: GymRow) -> None:
    """Raise InputError for a row whose request brings something that no seed can be put into."""
    metadata = row[REQUEST].get("metadata") or {}
    try:
        fits = isinstance(json.loads(metadata.get("extra_body") or "{}"), dict)
    except (ValueError, TypeError, AttributeError):
        fits = False
    if not fits:
        raise InputError(
            f"{REQUEST}.metadata.extra_body must be the JSON of an object, as a string: it takes the sample's seed"
        )

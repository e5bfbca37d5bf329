"""Tool calls of a turn, in every spelling, in OpenAI's form with arguments as an object."""

from typing import Any

from easyrlhf.data.json_values import from_json, kind_of_value, string_at
from easyrlhf.data.records import Message
from easyrlhf.data.row_errors import StructuralFault


def calls_of(turn: dict, key: str) -> list[dict]:
    """`tool_calls`, or the single `function_call` of OpenAI's earlier form."""
    calls, legacy = turn.get("tool_calls"), turn.get("function_call")
    if calls and legacy:
        raise StructuralFault(f"key '{key}': holds tool_calls and function_call; keep one")
    name = "tool_calls" if calls else "function_call"
    return read_calls(calls or legacy, f"{key}.{name}") if calls or legacy else []


def with_calls(turn: Message, call: Message) -> Message:
    """An assistant's turn with the calls that follow it."""
    if turn.get("learned") != call.get("learned"):
        raise StructuralFault("an assistant's text and its call are one turn, but one of them alone is switched off")
    return turn | {"tool_calls": [*turn.get("tool_calls", []), *call["tool_calls"]]}


def read_calls(value: Any, key: str) -> list[dict]:
    """The calls that a value holds, one or several, as JSON or as they are."""
    value = from_json(value, key, 'a call, as in {"name": …, "arguments": {…}}')
    if not isinstance(value, list):
        return [_call(value, key)]
    return [_call(call, f"{key}[{i}]") for i, call in enumerate(value)]


def _call(call: Any, key: str) -> dict:
    """One call in OpenAI's form, its arguments as an object."""
    call = from_json(call, key, "a call")
    function = call.get("function", call) if isinstance(call, dict) else None
    function = from_json(function, key, "a function") if isinstance(function, str) else function
    if not (isinstance(function, dict) and isinstance(function.get("name"), str)):
        raise StructuralFault(f"key '{key}': expected a call with the function's 'name', found {kind_of_value(call)}")
    arguments = function.get("arguments", function.get("parameters"))
    arguments = {} if arguments in (None, "") else from_json(arguments, f"{key}.arguments", "an object of arguments")
    if not isinstance(arguments, dict):
        raise StructuralFault(
            f"key '{key}.arguments': expected an object or its JSON, found {kind_of_value(arguments)}"
        )
    made: dict = {"type": "function"}
    if call.get("id") is not None:
        made["id"] = string_at(call["id"], f"{key}.id")
    return made | {"function": {"name": function["name"], "arguments": arguments}}

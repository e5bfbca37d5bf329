"""Rows of NeMo Gym: a request of OpenAI's Responses API, and beside it what a verifier knows.

The server that verifies an answer gets the row as it was; what the policy is asked is made of the request alone.
"""

from collections import Counter
from typing import Any

from easyrlhf.data import fields
from easyrlhf.data.json_values import from_json, kind_of_value, string_at
from easyrlhf.data.messages import messages
from easyrlhf.data.records import Message, Messages, Prompt
from easyrlhf.data.row_errors import StructuralFault

REQUEST = "responses_create_params"
WHOLE_ROW = "nemo_gym_row"  # the column that holds the row as it was
INPUT = f"{REQUEST}.input"
# What stands in the columns for the chat template, and never for the verifier.
TEMPLATE = ("tools", "chat_template_kwargs")


def parse_nemo_gym(row: dict, notes: Counter) -> Prompt:
    """The conversation of a row's request, up to the answer that is to be sampled."""
    request = fields.need(row, REQUEST)
    if not isinstance(request, dict):
        raise StructuralFault(f"key '{REQUEST}': expected an object with 'input', found {kind_of_value(request)}")
    turns = request_turns(request)
    fields.check_question(turns)
    beside = {key: value for key, value in row.items() if key != REQUEST and key not in TEMPLATE}
    return Prompt(turns, beside | template_columns_of(request) | {WHOLE_ROW: dict(row)})


def request_turns(request: dict) -> Messages:
    """The turns of a request's `instructions` and `input`; neighbouring items of the assistant's are one turn."""
    given = request.get("input")
    if given is None:
        raise StructuralFault(f"key '{REQUEST}': missing key 'input'; found {fields.keys_of(request)}")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else fields.list_items(given, INPUT)
    read = messages([turn_of(item, f"{INPUT}[{i}]") for i, item in enumerate(items)], INPUT)
    names = {call.get("id"): call["function"]["name"] for turn in read for call in turn.get("tool_calls", ())}
    turns: Messages = []
    for turn in read:
        if turn["role"] == "tool" and turn.get("tool_call_id") in names:
            turn = turn | {"name": names[turn["tool_call_id"]]}
        if turns and turn["role"] == turns[-1]["role"] == "assistant":
            turns[-1] = joined(turns[-1], turn)
        else:
            turns.append(turn)
    if request.get("instructions"):
        said = string_at(request["instructions"], f"{REQUEST}.instructions")
        return [{"role": "system", "content": said}, *turns]
    return turns


def turn_of(item: Any, key: str) -> Message:
    """An item of a request's input as a turn, its content as it is. Raises StructuralFault for what is none."""
    if not isinstance(item, dict):
        raise StructuralFault(f"key '{key}': expected an object, found {kind_of_value(item)}")
    kind = item.get("type") or "message"
    if kind == "message":
        return {name: item[name] for name in ("role", "content") if name in item}
    if kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    if kind == "function_call_output":
        return {"role": "tool", "content": item.get("output"), "tool_call_id": item.get("call_id")}
    if kind == "reasoning":
        parts = fields.list_items(item.get("summary") or item.get("content") or [], f"{key}.summary")
        thought = "\n".join(string_at(part.get("text"), f"{key}.summary[].text") for part in parts)
        return {"role": "assistant", "content": "", "reasoning_content": thought}
    raise StructuralFault(
        f"key '{key}.type': unknown item '{kind}'; expected message, function_call, function_call_output or reasoning"
    )


def joined(first: Message, second: Message) -> Message:
    """Two turns of the assistant as one."""
    calls = [*first.get("tool_calls", ()), *second.get("tool_calls", ())]
    thought = first.get("reasoning_content", "") + second.get("reasoning_content", "")
    made = {"role": "assistant", "content": first["content"] + second["content"]}
    return made | ({"reasoning_content": thought} if thought else {}) | ({"tool_calls": calls} if calls else {})


def template_columns_of(request: dict) -> dict[str, Any]:
    """What a request tells the chat template: its tools, and the arguments in its metadata."""
    tools = fields.list_items(request.get("tools") or [], f"{REQUEST}.tools")
    nested = [nested_tool(tool, f"{REQUEST}.tools[{i}]") for i, tool in enumerate(tools)]
    metadata = request.get("metadata") or {}
    key = f"{REQUEST}.metadata.chat_template_kwargs"
    given = metadata.get("chat_template_kwargs") if isinstance(metadata, dict) else None
    kwargs = from_json(given, key, "an object") if given else {}
    if not isinstance(kwargs, dict):
        raise StructuralFault(f"key '{key}': expected an object, found {kind_of_value(kwargs)}")
    return ({"tools": nested} if nested else {}) | ({"chat_template_kwargs": kwargs} if kwargs else {})


def nested_tool(tool: Any, key: str) -> dict[str, Any]:
    """A flat tool of the Responses API in the form that chat templates have: `{"type", "function": {…}}`."""
    if isinstance(tool, dict) and isinstance(tool.get("function"), dict):
        return {"type": "function"} | tool  # in the order in which models have read it
    if not isinstance(tool, dict) or tool.get("type", "function") != "function" or not tool.get("name"):
        found = repr(tool.get("type")) if isinstance(tool, dict) and "type" in tool else kind_of_value(tool)
        raise StructuralFault(
            f'key \'{key}\': expected {{"type": "function", "name": …, "parameters": {{…}}}}, found {found}'
        )
    told = ("name", "description", "parameters")  # as NeMo Gym's own model server does; `strict` is for OpenAI's
    return {"type": "function", "function": {name: tool[name] for name in told if tool.get(name) is not None}}

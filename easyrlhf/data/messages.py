"""Reading the turns of a conversation, in every spelling, into one normal form.

A message has a role and a content (a string), and where its row has them: `reasoning_content`, `tool_calls` (as
OpenAI writes them, with arguments as an object), `tool_call_id`, `name`; and `learned`: False on a turn that its row
switches off. Templates get all of it but the last.
"""

import ast
import json
import re
from typing import Any

from easyrlhf.data.json_values import kind_of_value, string_at
from easyrlhf.data.records import Message, Messages
from easyrlhf.data.row_errors import StructuralFault
from easyrlhf.data.tool_calls import calls_of, read_calls, with_calls

SYSTEM = ("system", "developer")  # roles of a turn that says how to answer
ROLES = ("system", "user", "assistant", "tool", "developer")
CALL = "assistant's tool call"  # the turns of ShareGPT dialects that hold a call as JSON
ROLE_NAMES: dict[str, str] = {
    **dict.fromkeys(("human", "prompter", "usr"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "model", "bot", "chatbot", "ai", "bing", "bard", "claude"), "assistant"),
    **dict.fromkeys(
        (
            *("observation", "observations", "tool_response", "tool_result", "tool_results", "tool_output"),
            *("function", "function_response", "function_result", "ipython"),
        ),
        "tool",
    ),
    **dict.fromkeys(("function_call", "function_calls", "tool_call", "tool_calls"), CALL),
}
ROLE_KEYS = ("role", "from")
CONTENT_KEYS = ("content", "value")
TURN_TEXTS = (*CONTENT_KEYS, "tool_calls", "function_call")  # one of which a turn has
THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts")
# What stands under such a key of a row where it says whether the model thinks, or how much, and is no thought.
NO_THOUGHTS = ("on", "off", "true", "false", "yes", "no", "none", "auto", "default", "minimal", "low", "medium", "high")
SWITCHES = ("weight", "loss_weight", "train", "training", "trainable", "loss", "learn")
# Switches in a form that is not read: refused by name, since a turn would be learned that is not to be.
FOREIGN_SWITCHES = ("train_detail", "training_detail", "mask", "masked", "loss_mask", "ignore", "skip")
MEDIA = frozenset(
    f"{prefix}{kind}{ending}"
    for kind in ("image", "video", "audio")
    for ending in ("", "s", "_url", "_urls", "_path", "_paths")
    for prefix in ("", "_")
)
EMPTY = (None, "", [], {})
OBJECTS = re.compile(r"\s*(\[\s*)?\{")  # how a list of turns, or a single one, begins
PARTS = ("text", "input_text", "output_text")  # types of parts of a content that are text
TOOL_PARTS = ("tool_use", "tool_call", "tool_result", "server_tool_use", "function_call", "function_call_output")
# Every key of a message that is used or refused by name; others are named as not used.
MESSAGE_KEYS = frozenset(
    (
        *(*ROLE_KEYS, *CONTENT_KEYS, *THOUGHT_KEYS, *SWITCHES, *FOREIGN_SWITCHES, *MEDIA),
        *("tool_calls", "function_call", "tool_call_id", "name", "refusal", "tools", "functions"),
    )
)
ON = {True: True, False: False, "true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


def messages(value: Any, key: str) -> Messages:
    """A list of turns in the normal form. Raises StructuralFault, with the key and the place in it."""
    if not isinstance(value, list):
        raise StructuralFault(f"key '{key}': expected a list of messages, found {kind_of_value(value)}")
    turns: Messages = []
    for i, item in enumerate(value):
        turn = _turn(item, f"{key}[{i}]")
        if turn.pop(CALL, False) and turns and turns[-1]["role"] == "assistant":
            turns[-1] = with_calls(turns[-1], turn)
        else:
            turns.append(turn)
    return turns


def role_of(turn: Any) -> str | None:
    """The role of a turn as the normal form has it; None for what is no turn or has a role that is not known."""
    found = _first(turn, ROLE_KEYS)
    role = _role(found) if isinstance(found, str) else None
    return "assistant" if role == CALL else role if role in ROLES else None


def _role(written: str) -> str:
    """A role as the normal form has it, or CALL, or what is written where that is not known."""
    name = written.strip().lower()
    return ROLE_NAMES.get(name, name)


def unfolded(value: Any) -> Any:
    """The messages that a string holds as JSON, or as Python writes them, or the single one; any other as it is."""
    if not (isinstance(value, str) and OBJECTS.match(value)):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        turns = found if isinstance(found, list) else [found]
        if turns and all(map(_looks_like_a_turn, turns)):
            return found
    return value


def _looks_like_a_turn(value: Any) -> bool:
    return role_of(value) is not None and any(value.get(name) is not None for name in TURN_TEXTS)


def thoughts_beside(row: dict) -> dict[str, Any]:
    """The keys of a row, beside its answer, that hold thoughts, with these; one that switches thinking holds none."""
    found = {key: value for key, value in row.items() if key in THOUGHT_KEYS and value not in EMPTY}
    return {key: value for key, value in found.items() if str(value).strip().lower() not in NO_THOUGHTS}


def switched_off(turns: Messages) -> bool:
    """Whether one of the turns is not to be learned."""
    return any(turn.get("learned") is False for turn in turns)


def is_empty(turn: Message) -> bool:
    """Whether a turn says nothing: no text, no thought, no call."""
    return not (turn["content"].strip() or turn.get("tool_calls") or turn.get("reasoning_content"))


def content_of(value: Any, key: str) -> tuple[str, str]:
    """The text of a content, a string or typed parts whose texts are joined, and the thoughts among the parts."""
    if isinstance(value, str):
        return value, ""
    if not isinstance(value, list):
        raise StructuralFault(f"key '{key}': expected a string or a list of text parts, found {kind_of_value(value)}")
    texts: dict[str, list[str]] = {"text": [], "thinking": []}
    for i, part in enumerate(value):
        kind, text = _part(part, f"{key}[{i}]")
        texts[kind].append(text)
    return "".join(texts["text"]), "".join(texts["thinking"])


def _part(part: Any, key: str) -> tuple[str, str]:
    """("text" or "thinking", its text) of one part of a content."""
    if isinstance(part, str):
        return "text", part
    if not isinstance(part, dict):
        raise StructuralFault(
            f"key '{key}': expected a part such as {{'type': 'text', …}}, found {kind_of_value(part)}"
        )
    kind = part.get("type") or ("text" if "text" in part else None)
    name = "thinking" if kind in ("thinking", "reasoning") else "text"
    if name == "text" and kind not in PARTS:
        way = "; write calls as the turn's 'tool_calls', and results as turns of the role 'tool'"
        raise StructuralFault(
            f"key '{key}': a part of type {kind!r}; easyrlhf trains on text, so parts hold text alone"
            + way * (kind in TOOL_PARTS)
        )
    names = (kind, "text", "value") if name == "thinking" else ("text", "value")  # the latter in LLaMA-Factory's
    text = _first(part, names)
    if not isinstance(text, str):
        raise StructuralFault(
            f"key '{key}': expected a string in this part of type {kind!r}, found {kind_of_value(text)}"
        )
    return name, text


def _turn(turn: Any, key: str) -> Message:
    """One turn. A turn that is a call alone is marked with CALL: it belongs to the assistant's turn before it."""
    if not isinstance(turn, dict):
        raise StructuralFault(f"key '{key}': expected an object with 'role' and 'content', found {kind_of_value(turn)}")
    role_key = _key(turn, ROLE_KEYS, key)
    found = turn[role_key]
    if not isinstance(found, str):
        raise StructuralFault(f"key '{key}.{role_key}': expected a string, found {kind_of_value(found)}")
    role = _role(found)
    if role not in (*ROLES, CALL):
        known = ", ".join((*ROLES, *ROLE_NAMES))
        raise StructuralFault(f"key '{key}.{role_key}': unknown role '{found}'; expected one of {known}")
    refuse_media(turn, f"{key}.")
    _refuse_unread(turn, key)
    if role == CALL:
        return _call_turn(turn, key)
    thought, calls = _thought(turn, key), calls_of(turn, key)
    content, thinking = _content(turn, key, optional=bool(calls or thought))
    thought = thought or thinking
    made: Message = {"role": role, "content": content}
    made |= {"reasoning_content": thought} if thought else {}
    made |= {"tool_calls": calls} if calls else {}
    if (calls or thought) and role != "assistant":
        raise StructuralFault(
            f"key '{key}': a {role} turn with {'tool calls' if calls else 'thoughts'}; only assistants"
        )
    for name in ("tool_call_id", "name"):
        if turn.get(name) is not None:
            made[name] = string_at(turn[name], f"{key}.{name}")
    return made | _learned(turn, role, key)


def _content(turn: dict, key: str, optional: bool) -> tuple[str, str]:
    """The content's text and the thoughts in it; null or missing is none where calls or thoughts stand beside it."""
    content_key = next((name for name in CONTENT_KEYS if turn.get(name) is not None), None)
    if content_key is not None:
        return content_of(turn[content_key], f"{key}.{content_key}")
    if optional:
        return "", ""
    if turn.get("refusal") is not None:
        raise StructuralFault(f"key '{key}.refusal': is not read; write the refusal as this turn's 'content'")
    if present := [name for name in CONTENT_KEYS if name in turn]:
        raise StructuralFault(
            f"key '{key}.{present[0]}' is null; expected a text: only an assistant's turn with 'tool_calls' has none"
        )
    wanted = CONTENT_KEYS[ROLE_KEYS.index(_key(turn, ROLE_KEYS, key))]
    raise StructuralFault(f"key '{key}': missing key '{wanted}'; found keys {', '.join(map(str, turn))}")


def _thought(turn: dict, key: str) -> str:
    """The turn's thoughts, under whichever name."""
    found = [name for name in THOUGHT_KEYS if turn.get(name)]
    texts = [string_at(turn[name], f"{key}.{name}") for name in found]
    if len(set(texts)) > 1:
        raise StructuralFault(f"key '{key}': holds thoughts as {' and as '.join(found)}; keep one")
    return texts[0] if texts else ""


def _call_turn(turn: dict, key: str) -> Message:
    """A turn whose content is one call or several, as JSON."""
    content_key = _key(turn, CONTENT_KEYS, key)
    calls = read_calls(turn[content_key], f"{key}.{content_key}")
    return {"role": "assistant", "content": "", "tool_calls": calls, CALL: True} | _learned(turn, "assistant", key)


def _learned(turn: dict, role: str, key: str) -> dict[str, bool]:
    """{"learned": False} for a turn that is switched off."""
    off = False
    for name in SWITCHES:
        if turn.get(name) is None:
            continue
        value = turn[name].strip().lower() if isinstance(turn[name], str) else turn[name]
        if isinstance(value, list | dict) or value not in ON:
            raise StructuralFault(
                f"key '{key}.{name}': expected true or false (or 1, 0), found {kind_of_value(turn[name])}: a turn is "
                "learned or it is not"
            )
        if ON[value] and role != "assistant":
            raise StructuralFault(
                f"key '{key}.{name}': asks to learn a turn of the {role}'s; only the assistant's are learned"
            )
        off |= not ON[value]
    return {"learned": False} if off and role == "assistant" else {}


def _refuse_unread(turn: dict, key: str) -> None:
    """Raise for keys that would change what is learned, in a form that is not read."""
    for name in FOREIGN_SWITCHES:
        if turn.get(name):
            raise StructuralFault(
                f"key '{key}.{name}': is not read; switch whole turns off with 'weight': 0 (or train, loss: false)"
            )
    for name in ("tools", "functions"):
        if turn.get(name):
            raise StructuralFault(f"key '{key}.{name}': tools stand in the row's own key 'tools', not in a turn")


def refuse_media(holder: dict, prefix: str = "") -> None:
    """Raise for images, videos and sounds, in a row or in one of its turns."""
    for name in sorted(MEDIA.intersection(holder)):
        if holder[name] not in EMPTY:
            raise StructuralFault(
                f"key '{prefix}{name}': holds {kind_of_value(holder[name])}, but easyrlhf trains on text: what it "
                f"shows would be lost. Leave such rows out, or take the key out with --field {name}= to train on "
                "text alone"
            )


def _key(turn: dict, names: tuple[str, ...], key: str) -> str:
    """The name under which a turn has the value, of those it may have."""
    found = next((name for name in names if turn.get(name) is not None), None)
    if found is None:
        null = next((name for name in names if name in turn), None)
        if null:
            raise StructuralFault(f"key '{key}.{null}' is null; expected a value")
        other = ROLE_KEYS if names == CONTENT_KEYS else CONTENT_KEYS
        place = next((i for i, name in enumerate(other) if turn.get(name) is not None), 0)
        raise StructuralFault(f"key '{key}': missing key '{names[place]}'; found keys {', '.join(map(str, turn))}")
    return found


def _first(turn: Any, names: tuple[str, ...]) -> Any:
    return next((turn[name] for name in names if isinstance(turn, dict) and turn.get(name) is not None), None)

"""Conversations with tool calls, as people read them. Loads no torch."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple


class TranscriptLine(NamedTuple):
    """One thing that was said or done.

    who   the role; of a result, `tool` and the tool's name
    text  what was said, or the call
    kind  assistant, call, tool, or another role
    """

    who: str
    text: str
    kind: str


def transcript_lines(messages: Iterable[dict[str, Any]]) -> Iterator[TranscriptLine]:
    """A conversation, each call and each result on a line of its own; a turn without a word has but its calls."""
    for turn in messages:
        role, content, calls = turn["role"], turn.get("content"), turn.get("tool_calls") or []
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False) if content else ""
        if thought := turn.get("reasoning_content"):
            yield TranscriptLine(role, f"({thought.strip()})", "thought")
        if role == "tool":
            yield TranscriptLine(f"tool {turn['name']}" if turn.get("name") else "tool", text, "tool")
        elif text or not calls:
            yield TranscriptLine(role, text, role)
        for call in calls:
            yield TranscriptLine(role, f"→ {call_text(call)}", "call")


def call_text(call: dict[str, Any]) -> str:
    """A call as Python would write it: look_up(owner="Anna", thing="hat")."""
    function = call.get("function", call)
    arguments = function.get("arguments")
    if isinstance(arguments, dict):
        arguments = ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    elif arguments is not None and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return f"{function.get('name')}({arguments or ''})"


def said_lines(row: dict[str, Any]) -> list[TranscriptLine]:
    """What a stored row of a completion says: an episode line by line, any other completion as one line."""
    if not row.get("messages"):
        return [TranscriptLine("assistant", row["completion"], "assistant")]
    return list(transcript_lines(row["messages"]))


def episode_marks(row: dict[str, Any]) -> list[str]:
    """How many turns and calls a stored row of an episode has; none of any other completion."""
    if not row.get("messages"):
        return []
    calls = sum(len(turn.get("tool_calls") or []) for turn in row["messages"])
    marks = [counted(row["turns"], "turn")]
    return marks + ([call_counts(calls, row["tool_errors"])] if calls else [])


def call_counts(calls: int, failed: int) -> str:
    """`2 calls, 1 failed`."""
    return counted(calls, "call") + (f", {failed} failed" if failed else "")


def counted(number: int, what: str) -> str:
    """`1 turn`, `2 turns`."""
    return f"{number} {what}{'s' * (number != 1)}"


def transcript(messages: Iterable[dict[str, Any]]) -> str:
    """The same as one text; the policy's first words stand without its name."""
    return "\n".join(f"{who}: {text}" for who, text, _ in transcript_lines(messages)).removeprefix("assistant: ")

"""What a row holds and its rendering does not show: said once, since templates drop fields without a word."""

import re
from collections.abc import Callable

from easyrlhf.data.records import Messages
from easyrlhf.data.render import Renderer
from easyrlhf.errors import InputError

THOUGHT = re.compile(r"(?:<think>)?(.*)</think>\s*", re.S)


def note_dropped(renderer: Renderer, conversations: list[Messages], arguments: dict) -> None:
    """Count the row in the renderer's notes for each of its fields that changes nothing in any of its conversations.

    A row without thoughts, tool calls and tools is not rendered for this.
    """
    for name, without in FIELDS.items():
        pairs = [((turns, arguments), without(turns, arguments)) for turns in conversations]
        changed = [pair for pair in pairs if pair[0] != pair[1]]
        if changed and all(read_alike(renderer, *pair) for pair in changed):
            renderer.notes[dropped(name)] += 1


def dropped(name: str) -> str:
    """The note on rows with a field that the template drops."""
    return f"rows read the same without their {name}: the chat template drops it"


def read_alike(renderer: Renderer, one: tuple, other: tuple) -> bool:
    """Whether two conversations, each with its arguments, are rendered alike but for white space; none is refused."""
    try:
        texts = [renderer.template.text(*conversation) for conversation in (one, other)]
        return "".join(texts[0].split()) == "".join(texts[1].split())
    except InputError:
        return False


def without_key(key: str) -> Callable[[Messages, dict], tuple[Messages, dict]]:
    """What leaves out a key of all turns."""

    def leave_out(turns: Messages, arguments: dict) -> tuple[Messages, dict]:
        return [{name: value for name, value in turn.items() if name != key} for turn in turns], arguments

    return leave_out


def without_tools(turns: Messages, arguments: dict) -> tuple[Messages, dict]:
    """Leaves out the declarations of tools."""
    return turns, {name: value for name, value in arguments.items() if name != "tools"}


def without_thoughts(turns: Messages, arguments: dict) -> tuple[Messages, dict]:
    """Leaves out thoughts that are written in the content of answers."""
    return [
        {**turn, "content": turn["content"][found.end() :]}
        if turn["role"] == "assistant" and (found := THOUGHT.match(turn["content"])) and found[1].strip()
        else turn
        for turn in turns
    ], arguments


FIELDS: dict[str, Callable[[Messages, dict], tuple[Messages, dict]]] = {
    "reasoning_content": without_key("reasoning_content"),
    "tool_calls": without_key("tool_calls"),
    "tools": without_tools,
    "thought in <think>…</think>": without_thoughts,
}

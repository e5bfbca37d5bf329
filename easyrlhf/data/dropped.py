"""What a row holds and its rendering does not show: said once, since templates drop fields without a word."""

import re
from collections.abc import Callable

from easyrlhf.data.messages import EMPTY, is_empty
from easyrlhf.data.records import Messages
from easyrlhf.data.render import Renderer
from easyrlhf.errors import InputError

OTHER = "SENTINEL"  # left out, a system text that is the template's own would not be missed
THOUGHT = re.compile(r"(?:<think>)?(.*)</think>\s*", re.S)


def note_dropped(renderer: Renderer, conversations: list[Messages], arguments: dict) -> None:
    """Count the row in the renderer's notes for each of its fields that changes nothing in any of its conversations.

    A row without thoughts, tool calls and tools is not rendered for this once its roles are known to be written.
    """
    for name, without in FIELDS.items():
        pairs = [((turns, arguments), without(turns, arguments)) for turns in conversations]
        changed = [pair for pair in pairs if pair[0] != pair[1]]
        if changed and all(read_alike(renderer, *pair) for pair in changed):
            renderer.notes[dropped(name)] += 1
    for name in unknown_variables(renderer, arguments):
        renderer.notes[dropped(f"chat_template_kwargs.{name}")] += 1
    for role in sorted({turn["role"] for turns in conversations for turn in turns} - renderer.written):
        if all(is_left_out(renderer, turns, arguments, role) for turns in conversations):
            renderer.notes[dropped(f"{role} text")] += 1
        else:  # the template knows the role; rendering each row for this would take time
            renderer.written.add(role)


def dropped(name: str) -> str:
    """The note on rows with a field that the template drops."""
    return f"rows read the same without their {name}: the chat template drops it"


def unknown_variables(renderer: Renderer, arguments: dict) -> list[str]:
    """Names of what a row tells the template, and the template has no variable for; tools are another matter."""
    template = renderer.tokenizer.chat_template
    said = [name for name, value in arguments.items() if name != "tools" and value not in EMPTY]
    return [name for name in said if isinstance(template, str) and not re.search(rf"\b{re.escape(name)}\b", template)]


def is_left_out(renderer: Renderer, turns: Messages, arguments: dict, role: str) -> bool:
    """Whether the template writes nothing of what a conversation's turns of this role say."""
    own = [turn for turn in turns if turn["role"] == role and not is_empty(turn)]
    others = [{**turn, "content": turn["content"] + OTHER} if turn in own else turn for turn in turns]
    return bool(own) and read_alike(renderer, (turns, arguments), (others, arguments))


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

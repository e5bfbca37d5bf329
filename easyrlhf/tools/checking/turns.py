"""What the turns of a record say, in one text each."""

import json

from easyrlhf.data.records import Message, Messages

Turns = list[tuple[str, str]]  # (role, all that the turn says)


def characters(turns: Turns) -> int:
    """Of all turns, without what a template adds."""
    return sum([len(content) for _, content in turns])


def turns_said(text: str | Messages) -> Turns:
    """(role, all that it says) of every turn; a plain text is one turn without a role, none is no turn."""
    if isinstance(text, str):
        return [("", text)] if text else []
    return [(turn["role"], said_by(turn)) for turn in text]


def said_by(turn: Message) -> str:
    """The content of a turn, and in front of it thoughts and calls where it has them."""
    more = {key: value for key, value in turn.items() if key not in ("role", "content")}
    return json.dumps(more, ensure_ascii=False, sort_keys=True) + turn["content"] if more else turn["content"]

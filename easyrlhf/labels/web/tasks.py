"""An item as the page gets it: the texts, in the order in which they are shown, and nothing of where they come from."""

import json
from dataclasses import asdict
from typing import Any

from easyrlhf.data.records import Message, Messages
from easyrlhf.labels.rows import Given, StoredItem
from easyrlhf.labels.web.wording import choices_of, question_of, scale_of

Shown = str | list[dict[str, str]]


def task_of(given: Given, scale: str) -> dict[str, Any]:
    """What the page shows of an item; `scale` is that of the settings."""
    kind = given.item.kind
    own = scale_of(kind, scale)
    return {
        "item": given.item.id,
        "kind": kind,
        "scale": own,
        "question": question_of(kind, own),
        "choices": [asdict(choice) for choice in choices_of(kind, own)],
        "prompt": shown_text(given.item.prompt),
        "answers": [shown_text(answer) for answer in given.answers],
    }


def shown_text(content: Messages | str) -> Shown:
    """A text as it is, or the turns of a conversation with no more than role and text."""
    if isinstance(content, str):
        return content
    return [{"role": turn["role"], "content": text_of_turn(turn)} for turn in content]


def text_of_turn(turn: Message) -> str:
    """All that a turn says: what was thought, what was said, and the tools that are called."""
    thought, calls = turn.get("reasoning_content"), turn.get("tool_calls")
    parts = [f"[thinks] {thought}" if thought else "", turn.get("content") or ""]
    parts += [f"[calls] {json.dumps(call.get('function', call), ensure_ascii=False)}" for call in calls or ()]
    return "\n\n".join(part for part in parts if part)


def sources_told(item: StoredItem, shown: list[int]) -> list[str]:
    """Where each answer comes from, in the order in which they were shown: what --reveal tells after the label."""
    return [_source(item.sources[place] if place < len(item.sources) else {}) for place in shown]


def _source(source: dict[str, Any]) -> str:
    names = [str(source[name]) for name in ("model", "place") if source.get(name)]
    if source.get("reward") is not None:
        names.append(f"reward {source['reward']:+.2f}")
    return ", ".join(names) or "not known"

"""The rows of the store as values."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from easyrlhf.data.records import Messages

ANNOTATOR, JUDGE, REFEREE, IMPORT = "annotator", "judge", "referee", "import"
ROLES = (ANNOTATOR, JUDGE, REFEREE, IMPORT)


@dataclass(frozen=True)
class Annotator:
    """Who labels: a person, a judge, the organiser (role referee), or the file that a label came from.

    name  None once it is forgotten
    """

    id: int
    name: str | None
    role: str

    @property
    def label(self) -> str:
        """How it is called where it is read: by name, or by number."""
        return self.name or f"{self.role} {self.id}"


@dataclass(frozen=True)
class NewItem:
    """What is to be labelled.

    kind     pair, ranking, answer or chat
    answers  in the order to which labels refer
    sources  for each answer where it comes from: model, stage, sample, seed, temperature, reward, place
    columns  other fields of the row; tools and chat_template_kwargs are for the chat template
    random   whether it was picked by chance alone, so that it stands for all pairs
    truth    of a check: which answer is known to be better, 0 or 1; None for all other items
    """

    kind: str
    prompt: Messages | str
    answers: list[Messages | str]
    sources: list[dict[str, Any]] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    random: bool = False
    truth: int | None = None


@dataclass(frozen=True)
class StoredItem(NewItem):
    """An item with its number; conversation and turn, from 0, where it is a turn of a live conversation."""

    id: int = field(kw_only=True)
    parked: bool = False
    conversation: int | None = None
    turn: int | None = None


@dataclass(frozen=True)
class Given:
    """An item in an annotator's hands.

    shown    the places of its answers in the order in which they are shown
    repeat   whether he has labelled it before
    expires  until when it is his, seconds since 1970
    """

    item: StoredItem
    shown: list[int]
    repeat: bool
    expires: float

    @property
    def answers(self) -> list[Messages | str]:
        """The answers in the order in which they are shown."""
        return [self.item.answers[place] for place in self.shown]


@dataclass(frozen=True)
class NewLabel:
    """What an annotator says of an item, of the answers as they were shown.

    id       made by whoever gives it: the same label may be sent again under it
    value    as labels/values.py has it, of the scale
    shown    places of the answers in the order in which they were seen; None: as the store has shown them to him
    edit     a better answer, written by the annotator
    seconds  how long he looked at it
    detail   what else is kept: a judge's principle, say
    """

    id: str
    item: int
    annotator: int
    value: Any
    scale: str
    shown: list[int] | None = None
    flags: tuple[str, ...] = ()
    note: str = ""
    edit: str = ""
    seconds: float = 0.0
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredLabel(NewLabel):
    """A label with its value in the item's own order, and what became of it.

    role    of its annotator
    repeat  given of an item that he had labelled before
    late    given when the item was no longer his
    at      when, seconds since 1970
    undone  when he took it back, or None
    """

    role: str = field(kw_only=True)
    repeat: bool = False
    late: bool = False
    at: float = 0.0
    undone: float | None = None


@dataclass(frozen=True)
class StoredConversation:
    """A live conversation.

    messages  all turns that stand, the newest of the user's among them
    open      the turn whose two answers wait for a label, or None
    said      whether a message waits for its answers
    """

    id: int
    annotator: int
    messages: Messages
    open: StoredItem | None
    said: bool


def item_of(row: Mapping[str, Any]) -> StoredItem:
    """An item from its row."""
    texts = {name: json.loads(row[name]) for name in ("prompt", "answers", "sources", "columns")}
    plain = {name: row[name] for name in ("id", "kind", "truth", "conversation", "turn")}
    return StoredItem(**texts, **plain, random=bool(row["random"]), parked=row["parked"] is not None)


def label_of(row: Mapping[str, Any]) -> StoredLabel:
    """A label from its row, which has the role of its annotator too."""
    texts = {name: json.loads(row[name]) for name in ("value", "shown", "detail")}
    names = ("id", "item", "annotator", "scale", "note", "edit", "seconds", "at", "undone", "role")
    plain = {name: row[name] for name in names}
    flags = tuple(json.loads(row["flags"]))
    return StoredLabel(**texts, **plain, flags=flags, repeat=bool(row["repeat"]), late=bool(row["late"]))


def as_json(value: Any) -> str:
    """JSON in one form for one value, by which two are compared."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def kept_json(value: Any) -> str:
    """JSON with the keys in their order, as it is kept."""
    return json.dumps(value, ensure_ascii=False, default=str)

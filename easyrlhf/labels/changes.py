"""The single changes that the store's transactions are made of."""

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from easyrlhf.errors import InputError
from easyrlhf.labels.rows import ANNOTATOR, REFEREE, NewItem, NewLabel, StoredItem, as_json, item_of, kept_json
from easyrlhf.labels.values import CHAT, KINDS_OF_ITEMS, MOST_ANSWERS, PAIR, RANKING

ANSWERS_OF = {PAIR: (2, 2), CHAT: (2, 2), RANKING: (3, MOST_ANSWERS)}  # kind → fewest and most; others have one


def record_event(
    connection: sqlite3.Connection,
    now: float,
    what: str,
    annotator: int | None = None,
    item: int | None = None,
    **more: Any,
) -> None:
    """Note who did what when; `more` may hold the label's id, and detail for all else."""
    values = (now, annotator, what, item, more.get("label"), as_json(more.get("detail", {})))
    connection.execute("INSERT INTO event (at, annotator, what, item, label, detail) VALUES (?, ?, ?, ?, ?, ?)", values)


def key_of(item: NewItem) -> str:
    """What makes two items one: kind, prompt, what the template is told, and answers, in whatever order."""
    parts = [item.kind, as_json(item.prompt), as_json(item.columns), *sorted(map(as_json, item.answers))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def insert_item(
    connection: sqlite3.Connection, item: NewItem, conversation: int | None = None, turn: int | None = None
) -> tuple[int, bool]:
    """The number of an item, and whether it is new. Raises InputError for one that nobody could label."""
    low, high = ANSWERS_OF.get(item.kind, (1, 1))
    if item.kind not in KINDS_OF_ITEMS or not low <= len(item.answers) <= high:
        raise InputError(
            f"item of kind {item.kind!r} with {len(item.answers)} answers: a pair and a turn of a chat have "
            f"2, a ranking 3 to {MOST_ANSWERS}, an answer 1"
        )
    key = key_of(item) if conversation is None else f"chat {conversation} {turn}"
    known = connection.execute("SELECT id FROM item WHERE key = ?", (key,)).fetchone()
    if known:
        return known["id"], False
    texts = [kept_json(part) for part in (item.prompt, item.answers, item.sources, item.columns)]
    values = (key, item.kind, *texts, item.random, item.truth, conversation, turn)
    added = connection.execute(
        "INSERT INTO item (key, kind, prompt, answers, sources, columns, random, truth, conversation, turn) "
        f"VALUES ({', '.join('?' * len(values))})",
        values,
    )
    return added.lastrowid, True


def stored_item(connection: sqlite3.Connection, number: int) -> StoredItem:
    """The item of this number. Raises InputError for one that is not there."""
    row = connection.execute("SELECT * FROM item WHERE id = ?", (number,)).fetchone()
    if row is None:
        raise InputError(f"item {number}: there is none of this number")
    return item_of(row)


def role_of_annotator(connection: sqlite3.Connection, number: int) -> str:
    """Raises InputError for a number that no annotator has."""
    row = connection.execute("SELECT role FROM annotator WHERE id = ?", (number,)).fetchone()
    if row is None:
        raise InputError(f"annotator {number}: there is none of this number")
    return row["role"]


def lease_item(connection: sqlite3.Connection, item: int, annotator: int, repeat: bool, expires: float) -> None:
    """Put an item into an annotator's hands until `expires`."""
    connection.execute("INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?)", (item, annotator, repeat, expires))


def end_lease(connection: sqlite3.Connection, item: int, annotator: int) -> None:
    """Take an item out of an annotator's hands."""
    connection.execute("DELETE FROM lease WHERE item = ? AND annotator = ?", (item, annotator))


def hands_of(connection: sqlite3.Connection, item: int, annotator: int, now: float) -> tuple[bool, bool]:
    """(whether the item was given to him a second time, whether it is in his hands now). Old leases stay to tell."""
    row = connection.execute("SELECT * FROM lease WHERE item = ? AND annotator = ?", (item, annotator)).fetchone()
    return (bool(row["repeat"]), row["expires"] > now) if row else (False, False)


def content_of_label(label: NewLabel, value: Any, shown: list[int]) -> dict[str, Any]:
    """The columns of a label that say what it says."""
    return {
        **{name: getattr(label, name) for name in ("item", "annotator", "scale", "note", "edit")},
        **{name: as_json(part) for name, part in (("value", value), ("shown", shown), ("flags", list(label.flags)))},
        "seconds": float(label.seconds),
        "detail": as_json(dict(label.detail)),
    }


def shown_then(connection: sqlite3.Connection, label: str) -> tuple[Mapping[str, Any], list[int]] | None:
    """The row of a label that is there, and the order in which its answers were seen."""
    row = connection.execute("SELECT * FROM label WHERE id = ?", (label,)).fetchone()
    return row and (row, json.loads(row["shown"]))


def insert_label(connection: sqlite3.Connection, content: Mapping[str, Any]) -> None:
    """Add a label; its event comes with it."""
    places = ", ".join(f":{name}" for name in content)
    connection.execute(f"INSERT INTO label ({', '.join(content)}) VALUES ({places})", content)
    record_event(connection, content["at"], "label", content["annotator"], content["item"], label=content["id"])


def standing_label(connection: sqlite3.Connection, item: int, annotator: int, repeat: bool) -> str | None:
    """The id of the label that an annotator has given of an item and not taken back."""
    query = "SELECT id FROM label WHERE item = ? AND annotator = ? AND repeat = ? AND undone IS NULL"
    row = connection.execute(query, (item, annotator, repeat)).fetchone()
    return row and row["id"]


def undo_label(connection: sqlite3.Connection, label: str, item: int, annotator: int, now: float) -> None:
    """Mark a label as taken back. Raises InputError for that by which a conversation has gone on: its annotator's."""
    gone_on = """SELECT 1 FROM item i JOIN conversation c ON c.id = i.conversation WHERE i.id = :item AND
      c.annotator = :annotator AND
      (c.said IS NOT NULL OR EXISTS (SELECT 1 FROM item j WHERE j.conversation = c.id AND j.turn > i.turn))"""
    if connection.execute(gone_on, {"item": item, "annotator": annotator}).fetchone():
        raise InputError(f"item {item}: the conversation has gone on from this turn; its label stays")
    connection.execute("UPDATE label SET undone = ? WHERE id = ?", (now, label))
    record_event(connection, now, "undo", annotator, item, label=label)


def replaces_own(role: str) -> bool:
    """Whether a new label of this role takes the earlier one back: a decision may be changed."""
    return role == REFEREE


def may_be_late(role: str) -> bool:
    """Whether this role is given items one by one; others label what they like."""
    return role == ANNOTATOR


def skips_of(connection: sqlite3.Connection, item: int) -> int:
    """How many have passed an item since it was last put back into the queue."""
    query = """SELECT COUNT(*) FROM event WHERE what = 'skip' AND item = :item AND id >
      (SELECT COALESCE(MAX(id), 0) FROM event WHERE what = 'unpark' AND item = :item)"""
    return connection.execute(query, {"item": item}).fetchone()[0]

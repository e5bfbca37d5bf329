"""Live conversations: each turn two answers, of which the preferred one becomes history; they outlive the server."""

import json
import sqlite3

from easyrlhf.data.records import Messages
from easyrlhf.errors import InputError
from easyrlhf.labels.changes import insert_item, lease_item, record_event
from easyrlhf.labels.rows import Given, NewItem, StoredConversation, StoredItem, item_of
from easyrlhf.labels.store import LEASE, Store
from easyrlhf.labels.values import CHAT

LAST_TURN = "SELECT * FROM item WHERE conversation = ? ORDER BY turn DESC LIMIT 1"


def start_conversation(store: Store, annotator: int) -> int:
    """Begin a conversation; its number."""
    with store.write() as connection:
        values = (annotator, store.clock())
        found = connection.execute("INSERT INTO conversation (annotator, since) VALUES (?, ?)", values)
        record_event(connection, store.clock(), "conversation", annotator, detail={"conversation": found.lastrowid})
        return found.lastrowid


def conversations_of(store: Store, annotator: int) -> list[StoredConversation]:
    """An annotator's conversations, the newest first."""
    rows = store.read("SELECT id FROM conversation WHERE annotator = ? ORDER BY id DESC", (annotator,))
    return [read_conversation(store, row["id"]) for row in rows]


def read_conversation(store: Store, number: int) -> StoredConversation:
    """The conversation of this number. Raises InputError for one that is not there."""
    with store.snapshot():
        return _conversation(store.connection, number)


def send_message(store: Store, number: int, text: str) -> StoredConversation:
    """The annotator's next message; it waits for its answers, over a restart too.

    Raises InputError where a message waits already, or a pair for its label, and for an empty message.
    """
    with store.write() as connection:
        found = _conversation(connection, number)
        if found.said or found.open:
            waits = "a pair of answers waits for its label" if found.open else "a message waits for its answers"
            raise InputError(f"conversation {number}: {waits}; that comes first")
        if not text.strip():
            raise InputError(f"conversation {number}: an empty message cannot be answered")
        connection.execute("UPDATE conversation SET said = ? WHERE id = ?", (text, number))
        return _conversation(connection, number)


def add_turn(store: Store, number: int, answers: list[Messages], sources: list[dict]) -> Given:
    """The two answers to the message that waits; they are in the annotator's hands.

    Raises InputError where no message waits.
    """
    with store.write() as connection:
        found = _conversation(connection, number)
        if not found.said:
            raise InputError(f"conversation {number}: no message waits for answers")
        last = connection.execute(LAST_TURN, (number,)).fetchone()
        turn = last["turn"] + 1 if last else 0
        new = NewItem(CHAT, found.messages, answers, sources)
        item_id, _ = insert_item(connection, new, number, turn)
        connection.execute("UPDATE conversation SET said = NULL WHERE id = ?", (number,))
        expires = store.clock() + LEASE
        lease_item(connection, item_id, found.annotator, False, expires)
        row = connection.execute("SELECT * FROM item WHERE id = ?", (item_id,)).fetchone()
    item = item_of(row)
    return Given(item, store.shown(item, found.annotator), False, expires)


def _conversation(connection: sqlite3.Connection, number: int) -> StoredConversation:
    row = connection.execute("SELECT * FROM conversation WHERE id = ?", (number,)).fetchone()
    if row is None:
        raise InputError(f"conversation {number}: there is none of this number")
    messages: Messages = []
    last, open_turn = connection.execute(LAST_TURN, (number,)).fetchone(), None
    if last:
        item = item_of(last)
        preferred = _preferred(connection, item, row["annotator"])
        messages, open_turn = item.prompt + (preferred or []), None if preferred else item
    if row["said"] is not None:
        messages = [*messages, {"role": "user", "content": row["said"]}]
    return StoredConversation(number, row["annotator"], messages, open_turn, row["said"] is not None)


def _preferred(connection: sqlite3.Connection, item: StoredItem, annotator: int) -> Messages | None:
    """The answer that goes on, of equal ones the one shown first; None while there is no label."""
    query = "SELECT value, shown, scale FROM label WHERE item = ? AND annotator = ? AND undone IS NULL"
    row = connection.execute(query, (item.id, annotator)).fetchone()
    if row is None:
        return None
    value = json.loads(row["value"])
    return item.answers[json.loads(row["shown"])[0] if value == 0 else int(value < 0)]

"""The store of labels: items, who labels them, what they say, and a record of everything that happened.

Every change is one transaction, on disk when the method returns; any thread and any number of processes may use the
same folder. Errors are InputError for what was asked for wrongly and RunError for a disk that takes nothing.
"""

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from easyrlhf.errors import InputError
from easyrlhf.labels.changes import (
    content_of_label,
    end_lease,
    hands_of,
    insert_item,
    insert_label,
    lease_item,
    may_be_late,
    record_event,
    replaces_own,
    role_of_annotator,
    shown_then,
    skips_of,
    standing_label,
    stored_item,
    undo_label,
)
from easyrlhf.labels.people import People
from easyrlhf.labels.queue import pick_item
from easyrlhf.labels.rows import (
    Given,
    NewItem,
    NewLabel,
    StoredItem,
    StoredLabel,
    as_json,
    item_of,
    label_of,
)
from easyrlhf.labels.values import check_shown, check_value, in_item_order, order_shown

FILE = "labels.db"
LEASE = 600.0  # seconds that an item stays in an annotator's hands
SKIPS = 3  # of an item park it for the organiser
NEW, KNOWN, CONFLICT = "new", "known", "conflict"
LABELS = "SELECT l.*, a.role FROM label l JOIN annotator a ON a.id = l.annotator"


class Store(People):
    """labels.db of a folder.

    clock  what says the time, in seconds since 1970
    """

    def __init__(self, folder: str | Path, *, create: bool = False, clock: Callable[[], float] = time.time):
        """Open the labels of a folder; with `create`, make folder and file where there are none.

        Raises InputError where there are none otherwise, and for a file that is no store.
        """
        self.folder = Path(folder)
        file = self.folder / FILE
        if not create and not file.is_file():
            raise InputError(
                f"--labels {folder}: no labels are there; easyrlhf label import FILE --labels {folder} makes them"
            )
        make_labels_folder(self.folder)
        super().__init__(file, clock)
        with self.write() as connection:
            connection.execute("INSERT OR IGNORE INTO setting VALUES ('secret', ?)", (secrets.token_hex(32),))
        self.secret = bytes.fromhex(self.setting("secret", ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    # What is labelled

    def add_items(self, items: Iterable[NewItem]) -> list[tuple[int, bool]]:
        """Add items, all or none; for each its number, and whether it is new: the same item twice is one."""
        with self.write() as connection:
            found = [insert_item(connection, item) for item in items]
            if new := sum(is_new for _, is_new in found):
                record_event(connection, self.clock(), "items", detail={"new": new})
        return found

    def item(self, number: int) -> StoredItem:
        """The item of this number. Raises InputError for one that is not there."""
        rows = self.read("SELECT * FROM item WHERE id = ?", (number,))
        if not rows:
            raise InputError(f"item {number}: is not in {self.file}")
        return item_of(rows[0])

    def items(self, kinds: Sequence[str] = (), *, without: int | None = None) -> Iterator[StoredItem]:
        """All items in their order, checks among them, parked ones too.

        kinds    only these kinds
        without  only those that this annotator has not labelled
        """
        query, values = "SELECT i.* FROM item i WHERE 1", list(kinds)
        query += f" AND i.kind IN ({','.join('?' * len(kinds))})" if kinds else ""
        if without is not None:
            query += (
                " AND NOT EXISTS (SELECT 1 FROM label l WHERE l.item = i.id AND l.annotator = ? AND l.undone IS NULL)"
            )
            values.append(without)
        return map(item_of, self.read(query + " ORDER BY i.id", values))

    def shown(self, item: StoredItem, annotator: int, repeat: bool = False) -> list[int]:
        """In which order an annotator sees the answers of an item: the places in the item."""
        return order_shown(self.secret, item.id, annotator, len(item.answers), repeat)

    # The queue

    def next_item(self, annotator: int, overlap: int = 1, besides: Sequence[int] = ()) -> Given | None:
        """Give an annotator an item for ten minutes: what he holds, or the next that has room; None when all is done.

        overlap  labels of people that each item is to have; labels and leases together never exceed it
        besides  items that he has in his hands already, to get a further one
        """
        with self.write() as connection:
            now = self.clock()
            picked = pick_item(connection, self.secret, annotator, overlap, now, besides)
            if picked is None:
                return None
            row, repeat = picked
            return self._give(connection, item_of(row), annotator, repeat)

    def renew(self, annotator: int, item: int) -> float | None:
        """Keep an item for ten more minutes; until when, or None where it is no longer his."""
        with self.write() as connection:
            now = self.clock()
            changed = connection.execute(
                "UPDATE lease SET expires = ? WHERE item = ? AND annotator = ? AND expires > ?",
                (now + LEASE, item, annotator, now),
            )
            return now + LEASE if changed.rowcount else None

    def skip(self, annotator: int, item: int, reason: str) -> bool:
        """He passes an item, which is not given to him again. Returns whether it is parked now: three skips do that."""
        with self.write() as connection:
            stored_item(connection, item)
            now = self.clock()
            end_lease(connection, item, annotator)
            mine = "SELECT 1 FROM event WHERE what = 'skip' AND item = ? AND annotator = ?"
            if not connection.execute(mine, (item, annotator)).fetchone():
                record_event(connection, now, "skip", annotator, item, detail={"reason": reason})
            if parked := skips_of(connection, item) >= SKIPS:
                connection.execute("UPDATE item SET parked = ? WHERE id = ? AND parked IS NULL", (now, item))
            return parked

    def unpark(self, item: int, annotator: int | None = None) -> None:
        """Put a parked item back into the queue, for those who have not skipped it."""
        with self.write() as connection:
            connection.execute("UPDATE item SET parked = NULL WHERE id = ?", (item,))
            record_event(connection, self.clock(), "unpark", annotator, item)

    # Labels

    def add_label(self, label: NewLabel) -> str:
        """Keep a label: "new"; "known" where the same one is there under this id; "conflict" where another one is.

        A label is also a conflict where its annotator has labelled the item under another id and not taken that back;
        a referee's new decision takes his earlier one back. A label that comes late is kept.
        Raises InputError for a value that the scale does not have, an item or an annotator that is not there.
        """
        return self.add_labels([label])[0]

    def add_labels(self, labels: Iterable[NewLabel]) -> list[str]:
        """Keep labels as add_label does, all or none of them."""
        with self.write() as connection:
            return [self._add_label(connection, label) for label in labels]

    def replace_labels(self, annotator: int, undone: Iterable[str], labels: Iterable[NewLabel]) -> None:
        """Take labels of one annotator back and keep others of his, all or nothing; nothing comes into his hands.

        Raises InputError for one to take back that is not his or does not stand, and for a conflict.
        """
        mine = "SELECT item FROM label WHERE id = ? AND annotator = ? AND undone IS NULL"
        with self.write() as connection:
            for one in undone:
                row = connection.execute(mine, (one, annotator)).fetchone()
                if row is None:
                    raise InputError(f"label {one}: annotator {annotator} has no such label to take back")
                undo_label(connection, one, row["item"], annotator, self.clock())
            for label in labels:
                if self._add_label(connection, label) == CONFLICT:
                    raise InputError(f"label {label.id}: item {label.item} has another label of annotator {annotator}")

    def undo(self, annotator: int, label: str | None = None) -> Given | None:
        """Mark a label as taken back, his last one or that of this id, and put its item into his hands again.

        None where there is nothing to take back. Raises InputError for a turn of a conversation that has gone on.
        """
        mine = "SELECT l.* FROM event e JOIN label l ON l.id = e.label WHERE e.what = 'label' AND l.undone IS NULL"
        mine += " AND l.annotator = :me AND (:label IS NULL OR l.id = :label) ORDER BY e.id DESC"
        with self.write() as connection:
            row = connection.execute(mine, {"me": annotator, "label": label}).fetchone()
            if row is None:
                return None
            undo_label(connection, row["id"], row["item"], annotator, self.clock())
            return self._give(connection, stored_item(connection, row["item"]), annotator, bool(row["repeat"]))

    def labels(self, item: int | None = None, *, undone: bool = False) -> list[StoredLabel]:
        """The labels of an item, or all, in the order in which they were given; with `undone`, those taken back too."""
        where = "(:item IS NULL OR l.item = :item) AND (:undone OR l.undone IS NULL)"
        rows = self.read(f"{LABELS} WHERE {where} ORDER BY l.at, l.id", {"item": item, "undone": undone})
        return [label_of(row) for row in rows]

    # What judges have said

    def add_reply(self, annotator: int, item: int, request: str, reply: Any) -> bool:
        """Keep a judge's raw answer (JSON) to a request about an item; whether it is new: the first one stays.

        request  says which of the judge's questions about the item it answers, such as "1,0 harmless"
        """
        return bool(self.add_replies(annotator, [(item, request, reply)]))

    def add_replies(self, annotator: int, replies: Iterable[tuple[int, str, Any]]) -> int:
        """Keep raw answers as add_reply does, all or none of them: (item, request, reply). Returns how many are new."""
        added = "INSERT OR IGNORE INTO reply (item, annotator, request, reply, at) VALUES (?, ?, ?, ?, ?)"
        with self.write() as connection:
            rows = [(item, annotator, request, as_json(reply), self.clock()) for item, request, reply in replies]
            return sum(connection.execute(added, row).rowcount for row in rows)

    def replies(self, annotator: int) -> dict[tuple[int, str], Any]:
        """All raw answers of a judge: (item, request) → reply."""
        rows = self.read("SELECT item, request, reply FROM reply WHERE annotator = ? ORDER BY id", (annotator,))
        return {(row["item"], row["request"]): json.loads(row["reply"]) for row in rows}

    # What happened

    def events(self, after: int = 0) -> list[dict[str, Any]]:
        """What happened, in order: id, at, annotator, what, item, label, detail."""
        rows = self.read("SELECT * FROM event WHERE id > ? ORDER BY id", (after,))
        return [dict(row) | {"detail": json.loads(row["detail"])} for row in rows]

    def check(self) -> str:
        """What SQLite's integrity_check says: "ok"."""
        return self.read("PRAGMA integrity_check")[0][0]

    def _add_label(self, connection: sqlite3.Connection, label: NewLabel) -> str:
        now, item = self.clock(), stored_item(connection, label.item)
        role = role_of_annotator(connection, label.annotator)
        again, held = hands_of(connection, item.id, label.annotator, now)
        known = shown_then(connection, label.id)
        if known and known[0]["item"] != item.id:
            return CONFLICT
        shown = label.shown or (known[1] if known else self.shown(item, label.annotator, again))
        check_shown(shown, len(item.answers))
        check_value(item.kind, label.scale, label.value, len(item.answers))
        value = in_item_order(item.kind, label.scale, label.value, shown)
        content = content_of_label(label, value, list(shown))
        if known:
            return KNOWN if all(known[0][name] == content[name] for name in content) else CONFLICT
        if standing := standing_label(connection, item.id, label.annotator, again):
            if not replaces_own(role):
                return CONFLICT
            undo_label(connection, standing, item.id, label.annotator, now)
        late = may_be_late(role) and not held
        insert_label(connection, content | {"id": label.id, "repeat": again, "late": late, "at": now})
        end_lease(connection, item.id, label.annotator)
        return NEW

    def _give(self, connection: sqlite3.Connection, item: StoredItem, annotator: int, repeat: bool) -> Given:
        """Put an item into an annotator's hands."""
        expires = self.clock() + LEASE
        lease_item(connection, item.id, annotator, repeat, expires)
        return Given(item, self.shown(item, annotator, repeat), repeat, expires)


def make_labels_folder(folder: Path) -> None:
    """Create the folder of the labels. Raises InputError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--labels {folder}: cannot be created ({error.strerror}); give another folder") from error

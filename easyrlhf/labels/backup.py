"""labels.jsonl: everything in the store, one row a line, but names of people; and a store made of it again."""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from easyrlhf.errors import InputError
from easyrlhf.labels.changes import ANSWERS_OF
from easyrlhf.labels.rows import IMPORT, JUDGE, kept_json
from easyrlhf.labels.store import Store
from easyrlhf.labels.values import KINDS_OF_ITEMS, check_shown, check_value

MARK = "easyrlhf_labels"  # key of the first line, by which the file is known
FORM = 1
SETTINGS = ("check_share", "repeat_share")
NAMED_ROLES = (JUDGE, IMPORT)  # whose names are no person's
# Table → how its rows are ordered, and which of its columns hold JSON.
WRITTEN = {
    "annotator": ("id", ()),
    "conversation": ("id", ()),
    "item": ("id", ("prompt", "answers", "sources", "columns")),
    "label": ("at, id", ("value", "shown", "flags", "detail")),
    "reply": ("id", ("reply",)),
    "event": ("id", ("detail",)),
}


def dump(store: Store, *, notes: bool) -> Iterator[dict[str, Any]]:
    """The rows of labels.jsonl, as of one moment. Without `notes`, what annotators noted stays in the store."""
    with store.snapshot():
        yield {MARK: FORM, "settings": {name: float(store.setting(name, "0")) for name in SETTINGS}}
        for table, (order, texts) in WRITTEN.items():
            for row in store.read(f"SELECT * FROM {table} ORDER BY {order}"):
                values = dict(row) | {name: json.loads(row[name]) for name in texts}
                if table == "annotator" and values["role"] not in NAMED_ROLES:
                    values["name"] = None
                if table == "label" and not notes:
                    values["note"] = ""
                yield {"table": table, **values}


def is_dump(first: Any) -> bool:
    """Whether a first row is that of labels.jsonl."""
    return isinstance(first, dict) and MARK in first


def restore_rows(store: Store, rows: Iterable[tuple[str, Any]]) -> bool:
    """Fill an empty store from the rows of labels.jsonl; False where it holds just these already.

    rows  each with its place, file:line
    Raises InputError for a store that holds anything else, and for a row that is not as it was written.
    """
    rows = list(rows)
    place, first = rows[0]
    if first.get(MARK) != FORM or not isinstance(first.get("settings"), dict):
        raise InputError(f"{place}: labels of form {first.get(MARK)!r}, this version knows {FORM}; update easyrlhf")
    if store.read("SELECT 1 FROM item UNION ALL SELECT 1 FROM annotator LIMIT 1"):
        written = [row for _, row in rows]
        if any(list(dump(store, notes=notes)) == written for notes in (True, False)):
            return False
        raise InputError(
            f"--labels {store.folder}: holds labels already, and {place.rpartition(':')[0]} restores into a folder "
            "without any; give a new one"
        )
    with store.write() as connection:
        shapes: dict[int, tuple[str, int]] = {}
        for place, row in rows[1:]:
            try:
                _insert(connection, row, shapes)
            except (InputError, sqlite3.Error, KeyError, TypeError, ValueError, AttributeError) as error:
                raise InputError(f"{place}: is not as easyrlhf label export wrote it: {error}") from error
        for name in SETTINGS:
            value = (name, str(float(first["settings"].get(name, 0))))
            connection.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", value)
    return True


def _insert(connection: sqlite3.Connection, row: dict[str, Any], shapes: dict[int, tuple[str, int]]) -> None:
    """Put one row back. shapes: item → its kind and its number of answers."""
    table = row["table"]
    if table not in WRITTEN:
        raise InputError(f"unknown table {table!r}")
    columns = [found["name"] for found in connection.execute(f"PRAGMA table_info({table})")]
    if wrong := set(columns) ^ (row.keys() - {"table"}):
        raise InputError(f"keys that are too many or too few: {', '.join(sorted(wrong))}")
    if table == "item":
        low, high = ANSWERS_OF.get(row["kind"], (1, 1))
        if row["kind"] not in KINDS_OF_ITEMS or not low <= len(row["answers"]) <= high:
            raise InputError(f"kind {row['kind']!r} with {len(row['answers'])} answers")
        shapes[row["id"]] = row["kind"], len(row["answers"])
    if table == "label":
        kind, answers = shapes[row["item"]]
        check_value(kind, row["scale"], row["value"], answers)
        check_shown(row["shown"], answers)
    values = [kept_json(row[name]) if name in WRITTEN[table][1] else row[name] for name in columns]
    places = ", ".join("?" * len(columns))
    connection.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", values)

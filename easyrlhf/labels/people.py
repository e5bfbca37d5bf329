"""Who labels, and what is kept under a name: the part of the store that holds names and tokens, and no label."""

import hashlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from easyrlhf.errors import InputError
from easyrlhf.labels.changes import record_event
from easyrlhf.labels.database import Database
from easyrlhf.labels.rows import ANNOTATOR, ROLES, Annotator


class People(Database):
    """Annotators, their tokens, and settings of the store.

    clock  what says the time, in seconds since 1970
    """

    def __init__(self, file: Path, clock: Callable[[], float] = time.time):
        super().__init__(file)
        self.clock = clock

    def setting(self, name: str, default: str) -> str:
        """What is kept under a name, such as check_share or repeat_share."""
        rows = self.read("SELECT value FROM setting WHERE name = ?", (name,))
        return rows[0]["value"] if rows else default

    def keep_setting(self, name: str, value: Any) -> None:
        """Keep a value under a name, in place of the earlier one."""
        with self.write() as connection:
            connection.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, str(value)))

    def annotator(self, name: str, role: str = ANNOTATOR) -> Annotator:
        """The annotator of this name, new where there is none. Raises InputError where he has another role."""
        if role not in ROLES:
            raise InputError(f"role {role!r}: must be one of {', '.join(ROLES)}")
        if not name.strip() or not name.isprintable():
            raise InputError(f"annotator {name!r}: a name must hold letters, and nothing that is not printed")
        with self.write() as connection:
            row = connection.execute("SELECT * FROM annotator WHERE name = ?", (name,)).fetchone()
            if row is None:
                values = (name, role, self.clock())
                found = connection.execute("INSERT INTO annotator (name, role, since) VALUES (?, ?, ?)", values)
                record_event(connection, self.clock(), "annotator", found.lastrowid, detail={"role": role})
                return Annotator(found.lastrowid, name, role)
        if row["role"] != role:
            raise InputError(f"annotator {name!r}: is there in the role {row['role']}, not {role}; give another name")
        return Annotator(row["id"], name, role)

    def annotators(self) -> list[Annotator]:
        """All of them, by number; those whose name is forgotten too."""
        return [
            Annotator(row["id"], row["name"], row["role"]) for row in self.read("SELECT * FROM annotator ORDER BY id")
        ]

    def new_token(self, annotator: int) -> str:
        """Make a secret of 128 bits by which he is known; earlier ones stay good. Only its SHA-256 is kept."""
        token = secrets.token_urlsafe(16)
        with self.write() as connection:
            connection.execute("INSERT INTO token VALUES (?, ?)", (token_hash(token), annotator))
        return token

    def annotator_of(self, token: str) -> Annotator | None:
        """Who has this token; None for one that is not known."""
        query = "SELECT a.* FROM token t JOIN annotator a ON a.id = t.annotator WHERE t.hash = ?"
        rows = self.read(query, (token_hash(token),))
        return Annotator(rows[0]["id"], rows[0]["name"], rows[0]["role"]) if rows else None

    def forget(self, name: str) -> int:
        """Delete a name and its tokens; his labels stay, under his number. Returns the number.

        Raises InputError for a name that is not there.
        """
        with self.write() as connection:
            row = connection.execute("SELECT id FROM annotator WHERE name = ?", (name,)).fetchone()
            if row is None:
                raise InputError(f"annotator {name!r}: no such name in {self.file}")
            connection.execute("UPDATE annotator SET name = NULL WHERE id = ?", (row["id"],))
            connection.execute("DELETE FROM token WHERE annotator = ?", (row["id"],))
            record_event(connection, self.clock(), "forget", row["id"])
        self.wipe()
        return row["id"]


def token_hash(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()

"""One SQLite file, of which what is acknowledged is on disk; any thread and process may read it and write to it."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from easyrlhf.errors import EasyRLHFError, InputError, RunError

VERSION = 1  # of the tables below
WAIT = 60.0  # seconds that a change waits for those of others

# Names stand in `annotator` alone. Times are seconds since 1970. What is JSON says so.
TABLES = """
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE annotator (id INTEGER PRIMARY KEY, name TEXT UNIQUE, role TEXT NOT NULL, since REAL NOT NULL);
CREATE TABLE token (hash TEXT PRIMARY KEY, annotator INTEGER NOT NULL REFERENCES annotator) WITHOUT ROWID;
CREATE TABLE conversation (
  id INTEGER PRIMARY KEY, annotator INTEGER NOT NULL REFERENCES annotator, since REAL NOT NULL,
  said TEXT -- a message that waits for its answers
);
CREATE TABLE item (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
  prompt TEXT NOT NULL, answers TEXT NOT NULL, sources TEXT NOT NULL, columns TEXT NOT NULL, -- JSON
  random INTEGER NOT NULL, truth INTEGER, parked REAL,
  conversation INTEGER REFERENCES conversation, turn INTEGER
);
CREATE TABLE lease (
  item INTEGER NOT NULL REFERENCES item, annotator INTEGER NOT NULL REFERENCES annotator,
  repeat INTEGER NOT NULL, expires REAL NOT NULL, PRIMARY KEY (item, annotator)
) WITHOUT ROWID;
CREATE TABLE label (
  id TEXT PRIMARY KEY, item INTEGER NOT NULL REFERENCES item, annotator INTEGER NOT NULL REFERENCES annotator,
  value TEXT NOT NULL, scale TEXT NOT NULL, shown TEXT NOT NULL, flags TEXT NOT NULL, -- JSON, but the scale
  note TEXT NOT NULL, edit TEXT NOT NULL, seconds REAL NOT NULL, detail TEXT NOT NULL, -- detail is JSON
  repeat INTEGER NOT NULL, late INTEGER NOT NULL, at REAL NOT NULL, undone REAL
) WITHOUT ROWID;
CREATE TABLE reply (
  id INTEGER PRIMARY KEY, item INTEGER NOT NULL REFERENCES item, annotator INTEGER NOT NULL REFERENCES annotator,
  request TEXT NOT NULL, reply TEXT NOT NULL, at REAL NOT NULL, UNIQUE (annotator, item, request)
);
CREATE TABLE event (
  id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, annotator INTEGER, what TEXT NOT NULL,
  item INTEGER, label TEXT, detail TEXT NOT NULL -- JSON
);
CREATE INDEX label_of_item ON label (item, annotator);
CREATE INDEX label_of_annotator ON label (annotator, at);
CREATE INDEX lease_of_annotator ON lease (annotator);
CREATE INDEX item_of_conversation ON item (conversation, turn) WHERE conversation IS NOT NULL;
CREATE INDEX skips ON event (item, annotator) WHERE what = 'skip';
CREATE TRIGGER event_stays BEFORE DELETE ON event BEGIN SELECT RAISE(ABORT, 'event is append only'); END;
CREATE TRIGGER event_as_it_was BEFORE UPDATE ON event BEGIN SELECT RAISE(ABORT, 'event is append only'); END;
CREATE TRIGGER label_stays BEFORE DELETE ON label BEGIN SELECT RAISE(ABORT, 'a label is undone, not deleted'); END;
CREATE TRIGGER label_as_it_was BEFORE UPDATE OF
  id, item, annotator, value, scale, shown, flags, note, edit, seconds, detail, repeat, late, at ON label
  BEGIN SELECT RAISE(ABORT, 'a label is undone, not changed'); END;
"""


class Database:
    """The file, with a connection for each thread that asks.

    Raises InputError for a file that is no such database, is of a newer version, or lies where SQLite has no WAL.
    """

    def __init__(self, file: Path):
        self.file = file
        self._of_thread = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        with self.write() as connection:
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found > VERSION:
                raise InputError(
                    f"{self.file}: was written by a newer version of easyrlhf (tables of version {found}, this one "
                    f"knows {VERSION}); update easyrlhf"
                )
            if not found:
                for statement in split_statements(TABLES):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")

    @property
    def connection(self) -> sqlite3.Connection:
        """That of this thread."""
        if not hasattr(self._of_thread, "connection"):
            with self._in_words():
                self._of_thread.connection = self._connect()
        return self._of_thread.connection

    def read(self, query: str, values: Any = ()) -> list[sqlite3.Row]:
        """The rows of a query, as of one moment."""
        with self._in_words():
            return self.connection.execute(query, values).fetchall()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that this thread reads in here is of one moment, whatever others write meanwhile."""
        with self._transaction("BEGIN"):
            yield

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction that no other one overlaps; on disk when this is left without an error, undone otherwise.

        Raises RunError when the disk does not take it.
        """
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    def close(self) -> None:
        """Close the connections of all threads."""
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
        self._of_thread = threading.local()

    def wipe(self) -> bool:
        """Write what the log holds into the file and cut the log, so that what was deleted lies in neither.

        False where that must wait, as another command is reading.
        """
        [(busy, *_)] = self.read("PRAGMA wal_checkpoint(TRUNCATE)")
        return not busy

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        connection = self.connection
        with self._in_words():
            connection.execute(begin)
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # a full disk has rolled it back already
                    connection.execute("ROLLBACK")
                raise

    def _connect(self) -> sqlite3.Connection:
        """A connection that waits for others, and whose COMMIT returns when all is on disk."""
        connection = sqlite3.connect(self.file, timeout=WAIT, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        [mode] = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise InputError(
                f"{self.file}: this file system has no place for SQLite's write-ahead log (journal mode {mode}), as "
                "some network file systems have none; give a --labels folder on a disk of this machine"
            )
        for pragma in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")
        with self._lock:
            self._connections.append(connection)
        return connection

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        """Turn what SQLite says of the file into our errors; faults of our own queries stay as they are."""
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            raise self._worded(error) or error from error

    def _worded(self, error: sqlite3.DatabaseError) -> EasyRLHFError | None:
        said = str(error)
        if not isinstance(error, sqlite3.OperationalError):
            return InputError(
                f"{self.file}: is not a file of labels, or is damaged ({said}); labels.jsonl of the last export "
                "restores it: easyrlhf label import labels.jsonl --labels NEW_FOLDER"
            )
        if "full" in said or "disk I/O" in said:
            return RunError(f"{self.file}: could not be written ({said}); make room there. What was there is kept")
        if "locked" in said:
            return RunError(f"{self.file}: others have been writing to it for {WAIT:.0f} seconds; try again after them")
        if "readonly" in said or "unable to open" in said:
            return InputError(f"{self.file}: cannot be opened ({said}); see that it and its folder can be written")
        return None


def split_statements(script: str) -> Iterator[str]:
    """The statements of a script, one by one: executescript would end the transaction."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""

"""Which item an annotator gets next. All of it runs inside one transaction of the store."""

import sqlite3
from collections.abc import Sequence

from easyrlhf.labels.rows import ANNOTATOR, REFEREE
from easyrlhf.labels.values import PAIR, chance_of

REPEAT_AFTER = 5  # labels: an own pair is shown again when so many others have been given since

# What may be shown to annotator :me at all, and was not yet labelled or skipped by him.
OPEN_TO_ME = """
i.parked IS NULL AND i.conversation IS NULL
AND NOT EXISTS (SELECT 1 FROM label l WHERE l.item = i.id AND l.annotator = :me AND l.undone IS NULL)
AND NOT EXISTS (SELECT 1 FROM event e WHERE e.what = 'skip' AND e.item = i.id AND e.annotator = :me)
"""
# Labels that people have given of an item, and the hands of others that it lies in.
LABELLED = f"""
(SELECT COUNT(*) FROM label l JOIN annotator a ON a.id = l.annotator
  WHERE l.item = i.id AND l.undone IS NULL AND NOT l.repeat AND a.role = '{ANNOTATOR}')
"""
TAKEN = f"""
{LABELLED} + (SELECT COUNT(*) FROM lease e
  WHERE e.item = i.id AND e.annotator != :me AND e.expires > :now AND NOT e.repeat)
"""
UNDECIDED = f"""
NOT EXISTS (SELECT 1 FROM label l JOIN annotator a ON a.id = l.annotator
  WHERE l.item = i.id AND l.undone IS NULL AND a.role = '{REFEREE}')
"""
HELD = """
SELECT i.*, e.repeat AS again FROM lease e JOIN item i ON i.id = e.item
WHERE e.annotator = :me AND e.expires > :now AND i.conversation IS NULL AND i.parked IS NULL
ORDER BY e.expires, i.id
"""
WANTED_OF_ME = f"FROM item i WHERE i.truth IS NULL AND {OPEN_TO_ME} AND {UNDECIDED}"
NEXT = f"SELECT i.* {WANTED_OF_ME} AND {TAKEN} < :overlap ORDER BY i.id"
# What he may be given sooner or later: what lies in others' hands may come back.
STILL_OPEN = f"SELECT EXISTS (SELECT 1 {WANTED_OF_ME} AND {LABELLED} < :overlap)"
CHECKS = f"SELECT i.* FROM item i WHERE i.truth IS NOT NULL AND {OPEN_TO_ME} ORDER BY i.id"
# Own pairs that were shown once, the oldest first.
AGAIN = f"""
SELECT i.* FROM item i JOIN label l ON l.item = i.id
WHERE l.annotator = :me AND l.undone IS NULL AND NOT l.repeat AND i.truth IS NULL AND i.kind = '{PAIR}'
AND i.parked IS NULL
AND NOT EXISTS (SELECT 1 FROM label r WHERE r.item = i.id AND r.annotator = :me AND r.repeat AND r.undone IS NULL)
AND l.at < (SELECT s.at FROM label s WHERE s.annotator = :me AND s.undone IS NULL
  ORDER BY s.at DESC LIMIT 1 OFFSET {REPEAT_AFTER - 1})
ORDER BY l.at, i.id
"""


def pick_item(
    connection: sqlite3.Connection,
    secret: bytes,
    me: int,
    overlap: int,
    now: float,
    besides: Sequence[int],
) -> tuple[sqlite3.Row, bool] | None:
    """The row of the next item for annotator `me`, and whether he has labelled it before; None when there is none.

    What he holds comes first, so that a reload shows the same; then, by chance, a check or an own pair again; then the
    first item that has fewer labels and hands than `overlap`.
    besides  items that he has in his hands already
    """
    values = {"me": me, "now": now, "overlap": overlap}

    def first(query: str) -> sqlite3.Row | None:
        return next((row for row in connection.execute(query, values) if row["id"] not in besides), None)

    if held := first(HELD):
        return held, bool(held["again"])
    drawn = chance_of(secret, "mixed in", me, _count(connection, me) + len(besides))
    checks, repeats = (_share(connection, name) for name in ("check_share", "repeat_share"))
    if drawn < checks and (row := first(CHECKS)):
        return row, False
    if checks <= drawn < checks + repeats and (row := first(AGAIN)):
        return row, True
    row = first(NEXT)
    return (row, False) if row else None


def _count(connection: sqlite3.Connection, annotator: int) -> int:
    """Labels of an annotator, those that he took back too."""
    return connection.execute("SELECT COUNT(*) FROM label WHERE annotator = ?", (annotator,)).fetchone()[0]


def _share(connection: sqlite3.Connection, name: str) -> float:
    row = connection.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
    return float(row["value"]) if row else 0.0

"""The account of a data set: rows read, used and dropped, and why, with the dropped rows kept."""

import json
import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jsonlines

from easyrlhf.files import atomic_write

OVER_LENGTH = "over length"
LEFT_OUT = "left out by weight"
HELD_OUT = "held out for validation"
KEPT = "kept for training"
TIES = "labelled a tie"
WINNER_ALONE = "rows of whose chosen_probability only the winner is used"
REPEATED = "rows used more than once, by weight"


@dataclass(frozen=True)
class DataSummary:
    """What became of every row of the files: read = used + dropped.

    rows     token rows made of the used ones: more of them, where one becomes several
    dropped  reason -> rows       notes  what was done to rows that were kept -> rows
    lengths  column -> p50, p90, p99, max in tokens, over the token rows
    sha256   of the token rows, in order
    unused   file -> keys of its rows that nothing was made of -> rows that have them
    """

    name: str
    files: list[str]
    formats: list[str]
    read: int
    used: int
    rows: int
    dropped: dict[str, int]
    notes: dict[str, int]
    lengths: dict[str, dict[str, int]]
    sha256: str
    unused: dict[str, dict[str, int]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For the console: the balance, with lengths where there are tokens, then what was noted."""
        lost = sum(self.dropped.values())
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
        balance = f"{self.read:,} rows read = {self.used:,} used + {lost:,} dropped"
        balance += f" ({reasons})" if reasons else ""
        parts = [balance]
        if self.lengths:
            parts.append("lengths " + " ".join(f"{key} {value:,}" for key, value in self.lengths["length"].items()))
        first = " · ".join([*parts, ", ".join(dict.fromkeys(self.formats))])
        noted = [f"{n:,} {note}" for note, n in self.notes.items()]
        return [f"{self.name}: {line}" for line in (first, *noted, *unused_key_lines(self.unused))]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


class Ledger:
    """Counts rows while they are read, and writes the dropped ones to a file, `bad_rows.jsonl`, if it has one."""

    def __init__(self, name: str, bad_rows: Path | None):
        self.name = name
        self.files: list[str] = []
        self.formats: list[str] = []
        self.read = 0
        self.used = 0
        self.rows = 0
        self.dropped: Counter = Counter()
        self.notes: Counter = Counter()
        self.converted: dict[tuple[str, str], Counter] = {}
        self.lengths: dict[str, array] = {}
        self.unused: dict[str, Counter] = {}
        self.bad_rows = bad_rows
        self._forget_earlier_run()

    def _forget_earlier_run(self) -> None:
        """Other data sets' bad rows stay in the file; those of this name are written anew."""
        if self.bad_rows is None or not self.bad_rows.exists():
            return
        mine = json.dumps({"data": self.name})[:-1] + ","  # how every line of ours begins
        with (
            atomic_write(self.bad_rows) as draft,
            self.bad_rows.open(encoding="utf-8") as old,
            draft.open("w", encoding="utf-8") as new,
        ):
            new.writelines(line for line in old if not line.startswith(mine))

    def drop(self, reason: str, place: str, row: Any, message: str | None = None) -> None:
        """Count a row as dropped and keep it, with the reason, for the user to look at."""
        self.dropped[reason] += 1
        if self.bad_rows is None:
            return
        line = {"data": self.name, "reason": reason, "place": place}
        line |= {"message": message} if message else {}
        with jsonlines.open(self.bad_rows, "a", dumps=_as_json) as out:
            out.write({**line, "row": row})

    def leave_out(self, reason: str) -> None:
        """Count a usable row as left out; it is not kept, as nothing is wrong with it."""
        self.dropped[reason] += 1

    def nothing_left(self, files: str) -> str:
        """What to say where no row of these files was used."""
        if set(+self.dropped) == {TIES}:
            return f"{files}: no usable row: all {self.dropped[TIES]:,} pairs are {TIES} (chosen_probability 0.5)"
        return f"{files}: no usable row; the dropped ones are in {self.bad_rows}"

    def use(self, rows: list[dict[str, int]]) -> None:
        """Count a row of a file as used; rows are the token rows it became: length in tokens, by column."""
        self.used += 1
        self.rows += len(rows)
        for lengths in rows:
            for column, length in lengths.items():
                self.lengths.setdefault(column, array("l")).append(length)

    def leave_unused(self, file: str, keys: list[str]) -> None:
        """Note keys of a row, or of its turns, of which nothing is made."""
        if keys:
            self.unused.setdefault(file, Counter()).update(keys)

    def convert(self, origin: str, target: str, rows: int) -> None:
        """Note that a row of a file, of one kind of records, became so many of another kind."""
        self.converted.setdefault((origin, target), Counter()).update(used=1, made=rows)

    def summary(self, sha256: str) -> DataSummary:
        """The account, once all rows are read."""
        converted = {f"{a} → {counts['made']:,} {b}": counts["used"] for (a, b), counts in self.converted.items()}
        return DataSummary(
            name=self.name,
            files=self.files,
            formats=self.formats,
            read=self.read,
            used=self.used,
            rows=self.rows,
            dropped=dict(self.dropped),
            notes=converted | {note: count for note, count in self.notes.items() if count},
            lengths={column: _percentiles(values) for column, values in self.lengths.items()},
            sha256=sha256,
            unused={file: dict(keys) for file, keys in self.unused.items()},
        )


def unused_key_lines(unused: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A line for each file that has keys of which nothing is made."""
    return [
        f"{file}: keys not used: "
        + ", ".join(f"{key} ({rows:,} {'row' if rows == 1 else 'rows'})" for key, rows in keys.items())
        for file, keys in unused.items()
    ]


def quantile(values: array, share: float) -> int:
    """The smallest of the values that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def _percentiles(values: array) -> dict[str, int]:
    return {
        "p50": quantile(values, 0.5),
        "p90": quantile(values, 0.9),
        "p99": quantile(values, 0.99),
        "max": max(values),
    }


def _as_json(value: Any) -> str:
    """JSON for whatever a row may hold, dates and bytes of a parquet file included."""
    return json.dumps(value, default=str)

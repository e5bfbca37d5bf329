"""rollouts.jsonl of an online run: read row by row, and the rows that are worth a look."""

import heapq
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from easyrlhf.report.transcript import episode_marks

Row = dict[str, Any]
ROLLOUTS_FILE = "rollouts.jsonl"

# what rows can be picked by -> the number that makes one stand out
ORDERS: dict[str, Callable[[Row], float | None]] = {
    "worst": lambda row: None if row["score"] is None else -row["score"],
    "best": lambda row: row["score"],
    "longest": lambda row: row["length"],
    "furthest": lambda row: row["kl"],
}


def stored_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, in order, without ever holding it all; a line that is only half written is passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


def pick(rows: Iterable[Row], order: str, count: int) -> list[Row]:
    """The rows that stand out most in an order, the most first; of equals, the earlier first."""
    rank = ORDERS[order]
    numbered = ((rank(row), -number, row) for number, row in enumerate(rows))
    return [
        row for *_, row in heapq.nlargest(count, (one for one in numbered if one[0] is not None), key=lambda x: x[:2])
    ]


def last_step(path: Path) -> int | None:
    """The step of the last row; None when there is none."""
    return max((row["step"] for row in stored_rows(path)), default=None)


def rollout_prompt(row: Row) -> str:
    """The prompt as people read it: its text, or one `role: content` line per turn."""
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return prompt
    return "\n".join(f"{turn.get('role', '')}: {written(turn.get('content'))}" for turn in prompt)


def written(content: Any) -> str:
    """A turn's content as text."""
    if isinstance(content, str):
        return content
    return "" if content is None else json.dumps(content, ensure_ascii=False)


def row_marks(row: Row) -> str:
    """The numbers of a row in one line."""
    names = ("score", "kl", "total", "advantage")
    said = [f"{name} {row[name]:+.3f}" for name in names if row.get(name) is not None]
    said.append(f"{row['length']} tokens{'' if row['finished'] else ', cut off'}")
    said += episode_marks(row)
    if len(row["rewards"]) > 1:
        said += [f"{name} {'-' if value is None else f'{value:+.3f}'}" for name, value in row["rewards"].items()]
    return " · ".join(said)


def extras(row: Row) -> list[str]:
    """What reward functions have logged of a completion, `name: value` each."""
    return [f"{name}: {written(value)}" for name, value in row.get("extra", {}).items() if value is not None]

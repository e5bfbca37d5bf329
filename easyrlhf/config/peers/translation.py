"""What a setting of another program is here."""

from typing import NamedTuple


class Translation(NamedTuple):
    """Our names for a foreign setting (none when this version lacks it), and what differs."""

    ours: tuple[str, ...]
    note: str


def alike(table: dict[str, tuple[tuple[str, ...], str]]) -> dict[str, Translation]:
    """A table of names from one of answers: "name name" -> (ours, note)."""
    return {name: Translation(*answer) for names, answer in table.items() for name in names.split()}

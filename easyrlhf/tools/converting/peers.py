"""The programs whose files are converted, and which of them a file is of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from easyrlhf.tools.converting import axolotl, llamafactory, openrlhf, swift, trl, verl
from easyrlhf.tools.converting.draft import Draft, Rule


@dataclass(frozen=True)
class Peer:
    """A program: its name, keys that give its files away, how its method is found, its own rules and defaults.

    stage_of  theirs -> our stage; raises InputError for a method that has none here
    finish    what its defaults are, and what follows from several settings
    """

    title: str
    signs: frozenset[str]
    stage_of: Callable[[dict[str, Any]], str]
    rules: dict[str, Rule]
    finish: Callable[[Draft], None]


PEERS: dict[str, Peer] = {
    name: Peer(module.TITLE, frozenset(module.SIGNS.split()), module.stage_of, module.RULES, module.finish)
    for name, module in {
        "axolotl": axolotl,
        "llamafactory": llamafactory,
        "swift": swift,
        "trl": trl,
        "openrlhf": openrlhf,
        "verl": verl,
    }.items()
}


def peer_of(keys: set[str], *, least: int = 1) -> str | None:
    """The program that a file with these top-level keys is of, by `least` signs of it; None when none stands out."""
    points = {name: len(keys & peer.signs) for name, peer in PEERS.items()}
    most = max(points.values())
    best = [name for name, count in points.items() if count == most]
    return best[0] if most >= least and len(best) == 1 else None

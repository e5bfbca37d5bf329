"""Labels as votes: of two answers which is better, or of one answer whether it is liked."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from easyrlhf.labels.rows import StoredItem, StoredLabel
from easyrlhf.labels.values import LIKED, RANKING, SCALES, share_of_win, strength_of

MIDDLE = 4  # of the likert scale, 1 to 7


@dataclass(frozen=True)
class Unit:
    """What one vote is about: answer `first` against answer `second` of an item, or answer `first` alone."""

    item: int
    first: int = 0
    second: int | None = 1


@dataclass(frozen=True)
class Votes:
    """Votes of annotators about units.

    units       [U]  what is voted on
    annotators  [A]  numbers of annotators
    unit        [V]  place of each vote's unit
    annotator   [V]  place of its annotator
    share       [V]  1 for the first answer, 0 for the second, ½ for a tie, or a probability
    strength    [V]  how strongly, from -1 to 1
    """

    units: list[Unit]
    annotators: list[int]
    unit: np.ndarray
    annotator: np.ndarray
    share: np.ndarray
    strength: np.ndarray

    def only(self, kept: np.ndarray) -> "Votes":
        """The votes that are kept, about the same units.  [V] of booleans"""
        columns = (column[kept] for column in (self.unit, self.annotator, self.share, self.strength))
        return Votes(self.units, self.annotators, *columns)

    @property
    def verdict(self) -> np.ndarray:
        """1 where the first answer is better, -1 the second, 0 neither.  [V]"""
        return np.sign(self.share - 0.5).astype(int)

    @property
    def item(self) -> np.ndarray:
        """The number of the item of each unit.  [U]"""
        return np.array([unit.item for unit in self.units], int)


def votes_of(items: Iterable[StoredItem], labels: Sequence[StoredLabel]) -> Votes:
    """The votes in labels: one of a pair or a single answer, one for each two answers of a ranking."""
    kinds = {item.id: item for item in items}
    units: dict[Unit, int] = {}
    annotators: dict[int, int] = {}
    found = []
    for label in labels:
        for unit, share, strength in votes_in(kinds[label.item], label.scale, label.value):
            place = units.setdefault(unit, len(units))
            found.append((place, annotators.setdefault(label.annotator, len(annotators)), share, strength))
    columns = np.array(found, float).reshape(-1, 4).T
    return Votes(list(units), list(annotators), columns[0].astype(int), columns[1].astype(int), columns[2], columns[3])


def votes_in(item: StoredItem, scale: str, value: Any) -> Iterator[tuple[Unit, float, float]]:
    """The votes of one label: what about, the first answer's share, how strongly."""
    if item.kind == RANKING:
        level = {place: rank for rank, equals in enumerate(value) for place in equals}
        for first, second in combinations(range(len(item.answers)), 2):
            sign = (level[first] < level[second]) - (level[first] > level[second])
            yield Unit(item.id, first, second), (1 + sign) / 2, float(sign)
    elif scale in SCALES[item.kind] and item.kind == "answer":
        strength = (2.0 * value - 1) if scale == LIKED else (value - MIDDLE) / (MIDDLE - 1)
        yield Unit(item.id, 0, None), (1 + (strength > 0) - (strength < 0)) / 2, strength
    else:
        yield Unit(item.id), share_of_win(scale, value), strength_of(scale, value)

"""How far the labelling is, and where those who label disagree."""

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from easyrlhf.labels.rows import ANNOTATOR, REFEREE, Annotator, StoredItem, StoredLabel
from easyrlhf.labels.store import Store
from easyrlhf.labels.votes import Unit, votes_in


@dataclass(frozen=True)
class Progress:
    """How far it is.

    items   kind → how many there are to label: no checks
    parked  items that three have skipped
    wanted  labels of people that are wanted of all items
    given   labels of people that count towards these
    by      what each annotator has done: labels, skips, seconds
    """

    items: dict[str, int]
    parked: int
    wanted: int
    given: int
    by: list[tuple[Annotator, dict[str, Any]]]

    @property
    def done(self) -> bool:
        """Whether every item that is not parked has its labels."""
        return self.given >= self.wanted


# Items that are to be labelled by people, and what those of them have that are not parked.
ASKED = "i.truth IS NULL AND i.conversation IS NULL AND i.parked IS NULL"
GIVEN = f"""
SELECT COALESCE(SUM(MIN(given, :overlap)), 0) FROM (
  SELECT COUNT(*) AS given FROM label l JOIN annotator a ON a.id = l.annotator JOIN item i ON i.id = l.item
  WHERE l.undone IS NULL AND NOT l.repeat AND a.role = '{ANNOTATOR}' AND {ASKED} GROUP BY l.item)
"""
DONE = "SELECT annotator, COUNT(*), SUM(seconds) FROM label WHERE undone IS NULL GROUP BY annotator"
SKIPPED = "SELECT annotator, COUNT(*) FROM event WHERE what = 'skip' GROUP BY annotator"


def progress_of(store: Store, overlap: int = 1) -> Progress:
    """Count what is done, where each item is to have so many labels of people; conversations want none."""
    with store.snapshot():
        kinds = store.read("SELECT kind, COUNT(*) FROM item WHERE truth IS NULL GROUP BY kind ORDER BY kind")
        [(parked,)] = store.read("SELECT COUNT(*) FROM item WHERE parked IS NOT NULL")
        [(asked,)] = store.read(f"SELECT COUNT(*) FROM item i WHERE {ASKED}")
        [(given,)] = store.read(GIVEN, {"overlap": overlap})
        done = {annotator: counts for annotator, *counts in map(tuple, store.read(DONE))}
        skipped = dict(map(tuple, store.read(SKIPPED)))
        annotators = store.annotators()
    by = []
    for one in annotators:
        labels, seconds = done.get(one.id, (0, 0.0))
        by.append((one, {"labels": labels, "seconds": seconds, "skips": skipped.get(one.id, 0)}))
    return Progress(dict(map(tuple, kinds)), parked, overlap * asked, given, by)


@dataclass(frozen=True)
class Disagreement:
    """An item on which labels differ, among themselves or from the rewards of its answers.

    shares       two of its answers, or its only one → the first answer's share of wins, or how many like it
    split        those of them of which labels say different things: two who both call it a tie agree
    differences  two answers → reward of the first minus that of the second, where both are known
    """

    item: StoredItem
    labels: list[StoredLabel]
    shares: dict[Unit, float]
    split: set[Unit]
    differences: dict[Unit, float]

    @property
    def among_labels(self) -> float:
        """0 where all say the same, 1 where as many say the contrary; the mean over the pairs of a ranking."""
        return statistics.fmean((1 - abs(2 * share - 1)) * (unit in self.split) for unit, share in self.shares.items())

    @property
    def with_rewards(self) -> float:
        """How much higher the reward of the answer is that the labels do not prefer; 0 or less where they agree.

        The mean over the pairs of a ranking.
        """
        told = [difference * (1 - 2 * self.shares[unit]) for unit, difference in self.differences.items()]
        return statistics.fmean(told) if told else 0.0

    @property
    def opposed(self) -> int:
        """Of how many pairs labels prefer the answer of the lower reward."""
        return sum(difference * (1 - 2 * self.shares[unit]) > 0 for unit, difference in self.differences.items())


def disagreements(store: Store, most: int = 20) -> tuple[list[Disagreement], list[Disagreement]]:
    """The undecided items on which labels disagree most, and those on which rewards and labels do, the worst first."""
    of_item = defaultdict(list)
    for label in store.labels():
        of_item[label.item].append(label)
    found = [
        disagreement_of(item, of_item[item.id])
        for item in store.items()
        if of_item[item.id] and all(label.role != REFEREE for label in of_item[item.id])
    ]
    among = sorted((one for one in found if one.among_labels > 0), key=lambda one: (-one.among_labels, one.item.id))
    rewards = sorted((one for one in found if one.with_rewards > 0), key=lambda one: (-one.with_rewards, one.item.id))
    return among[:most], rewards[:most]


def disagreement_of(item: StoredItem, labels: list[StoredLabel]) -> Disagreement:
    """How an item's labels and rewards stand to each other."""
    said = defaultdict(list)
    for label in labels:
        for unit, share, _ in votes_in(item, label.scale, label.value) if not label.repeat else ():
            said[unit].append(share)
    rewards = dict(enumerate(source.get("reward") for source in item.sources))
    differences = {
        unit: rewards[unit.first] - rewards[unit.second]
        for unit in said
        if rewards.get(unit.first) is not None and rewards.get(unit.second) is not None
    }
    means = {unit: statistics.fmean(shares) for unit, shares in said.items()}
    split = {unit for unit, shares in said.items() if len(set(shares)) > 1}
    return Disagreement(item, labels, means, split, differences)

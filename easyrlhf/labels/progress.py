"""How far the labelling is, and where those who label disagree."""

import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from easyrlhf.labels.rows import ANNOTATOR, REFEREE, Annotator, StoredItem, StoredLabel
from easyrlhf.labels.store import Store
from easyrlhf.labels.values import COMPARED, share_of_win


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


def progress_of(store: Store, overlap: int = 1) -> Progress:
    """Count what is done, where each item is to have so many labels of people; conversations want none."""
    with store.snapshot():
        items, labels, events = list(store.items()), store.labels(), store.events()
        annotators = store.annotators()
    counted = Counter(label.item for label in labels if label.role == ANNOTATOR and not label.repeat)
    asked = [item.id for item in items if item.truth is None and item.conversation is None and not item.parked]
    by = {one.id: {"labels": 0, "skips": 0, "seconds": 0.0} for one in annotators}
    for label in labels:
        by[label.annotator]["labels"] += 1
        by[label.annotator]["seconds"] += label.seconds
    for event in events:
        if event["what"] == "skip":
            by[event["annotator"]]["skips"] += 1
    return Progress(
        items=dict(Counter(item.kind for item in items if item.truth is None)),
        parked=sum(item.parked for item in items),
        wanted=overlap * len(asked),
        given=sum(min(overlap, counted[number]) for number in asked),
        by=[(one, by[one.id]) for one in annotators],
    )


@dataclass(frozen=True)
class Disagreement:
    """An item on which labels differ, among themselves or from the rewards of its answers.

    share       the first answer's share of wins among its labels
    difference  reward of the first answer minus that of the second, or None
    """

    item: StoredItem
    labels: list[StoredLabel]
    share: float
    difference: float | None

    @property
    def among_labels(self) -> float:
        """0 where all prefer the same answer, 1 where as many prefer the other."""
        return 1 - abs(2 * self.share - 1)

    @property
    def with_rewards(self) -> float:
        """How much higher the reward of the answer is that the labels do not prefer; 0 or less where they agree."""
        return (self.difference or 0.0) * (1 - 2 * self.share)


def disagreements(store: Store, most: int = 20) -> tuple[list[Disagreement], list[Disagreement]]:
    """The undecided pairs on which labels disagree most, and those on which rewards and labels do, the worst first."""
    of_item = defaultdict(list)
    for label in store.labels():
        of_item[label.item].append(label)
    found = [
        disagreement_of(item, of_item[item.id])
        for item in store.items(COMPARED)
        if of_item[item.id] and all(label.role != REFEREE for label in of_item[item.id])
    ]
    among = sorted((one for one in found if one.among_labels > 0), key=lambda one: (-one.among_labels, one.item.id))
    rewards = sorted((one for one in found if one.with_rewards > 0), key=lambda one: (-one.with_rewards, one.item.id))
    return among[:most], rewards[:most]


def disagreement_of(item: StoredItem, labels: list[StoredLabel]) -> Disagreement:
    """How an item's labels and rewards stand to each other."""
    share = statistics.fmean(share_of_win(label.scale, label.value) for label in labels if not label.repeat)
    rewards = [source.get("reward") for source in item.sources]
    known = len(rewards) == 2 and None not in rewards
    return Disagreement(item, labels, share, rewards[0] - rewards[1] if known else None)

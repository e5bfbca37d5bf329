"""What labels say of one another and of who gave them: what agreement.json holds but for a reward model."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from easyrlhf.errors import InputError
from easyrlhf.labels.agreement import (
    ceiling,
    cohens_kappa,
    interval_alpha,
    nominal_alpha,
    share_with_interval,
    vote_pairs,
)
from easyrlhf.labels.backup import NAMED_ROLES
from easyrlhf.labels.reliability import accuracy_intervals, reliabilities
from easyrlhf.labels.rows import ANNOTATOR, REFEREE, Annotator, StoredItem, StoredLabel
from easyrlhf.labels.selection import numbers_of
from easyrlhf.labels.store import Store
from easyrlhf.labels.values import COMPARED
from easyrlhf.labels.votes import Votes, votes_in, votes_of
from easyrlhf.report.rm_eval import wilson

RELIABLE = ("reliability", "reliability_ci95")
ENOUGH = 30  # pairs of labels from which a part of them is worth a ceiling of its own
EVERYONE, PEOPLE, AT_RANDOM = "everyone", "people", "pairs picked at random"


@dataclass(frozen=True)
class GivenLabels:
    """Items by number, annotators by number, and the labels that stand, those of checks and own pairs among them."""

    items: dict[int, StoredItem]
    annotators: dict[int, Annotator]
    labels: list[StoredLabel]

    @property
    def first(self) -> list[StoredLabel]:
        """Those that are compared: no checks, no pair shown again, and no decision, which knows the others."""
        return [
            label
            for label in self.labels
            if not label.repeat and self.items[label.item].truth is None and label.role != REFEREE
        ]


def read_labels(store: Store, only: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> GivenLabels:
    """All of one moment. Raises InputError for an annotator who is not there, and where there is no label."""
    with store.snapshot():
        chosen = numbers_of(store, "annotators", only) or {one.id for one in store.annotators()}
        chosen -= numbers_of(store, "exclude", exclude)
        items, annotators = store.items(), store.annotators()
        labels = [label for label in store.labels() if label.annotator in chosen]
        found = GivenLabels({item.id: item for item in items}, {one.id: one for one in annotators}, labels)
    if not labels:
        raise InputError(f"--labels {store.folder}: nobody has labelled anything yet; easyrlhf label serve asks people")
    return found


def measured_labels(given: GivenLabels) -> dict[str, Any]:
    """Agreement, its ceiling, every annotator and every two of them. Names are of judges and files alone."""
    votes = votes_of(given.items.values(), given.first)
    parts = agreement_parts(votes, given)
    return {
        "items": len({label.item for label in given.first}),
        "labels": len(given.first),
        "ties": float((votes.verdict == 0).mean()) if votes.unit.size else None,
        "agreement": parts,
        "ceiling": ceiling_of(parts),
        "position": position(given, [label for label in given.labels if label.role == ANNOTATOR]),
        "annotators": annotator_rows(given, votes),
        "matrix": matrix(votes, given),
    }


def agreement_parts(votes: Votes, given: GivenLabels) -> dict[str, dict[str, Any]]:
    """Agreement of everyone; of people alone, where there are others; and of pairs that chance alone has picked."""
    people = np.array([given.annotators[number].role == ANNOTATOR for number in votes.annotators], bool)
    by_people = people[votes.annotator] if people.size else np.zeros(0, bool)
    random = np.array([given.items[number].random for number in votes.item], bool)
    at_random = random[votes.unit] if random.size else np.zeros(0, bool)
    found = {EVERYONE: part(votes)}
    if by_people.any() and not by_people.all():
        found[PEOPLE] = part(votes.only(by_people))
    base = by_people if found.get(PEOPLE, {}).get("pairs") else np.ones(votes.unit.size, bool)
    if at_random.any() and not at_random.all():
        found[AT_RANDOM] = part(votes.only(base & at_random))
    return found


def part(votes: Votes) -> dict[str, Any]:
    """How far the votes of different annotators on the same answers agree.

    returns {"pairs", "items", "agreement", "decided", "alpha_nominal", "alpha_interval"}; agreement is the share of
    pairs of votes with the same verdict, decided the same of those that both name a winner: [share, low, high] or None
    """
    pairs = vote_pairs(votes)
    first, second = (votes.verdict[pairs[:, side]] for side in (0, 1))
    items = votes.item[votes.unit[pairs[:, 0]]] if len(pairs) else np.zeros(0, int)
    both = (first != 0) & (second != 0)
    counts = np.zeros((len(votes.units), 3), int)
    np.add.at(counts, (votes.unit, votes.verdict + 1), 1)
    return {
        "pairs": len(pairs),
        "items": len(np.unique(items)),
        "agreement": resampled(first == second, items),
        "decided": resampled((first == second)[both], items[both]),
        "alpha_nominal": nominal_alpha(counts) if len(pairs) else None,
        "alpha_interval": interval_alpha(votes.unit, votes.strength) if len(pairs) else None,
    }


def resampled(hits: np.ndarray, items: np.ndarray) -> list[float] | None:
    """[share, low, high], or None of nothing."""
    return list(share_with_interval(hits.astype(float), items)) if hits.size else None


def ceiling_of(parts: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The most that a reward model can score on single labels, by the agreement that is the least biased.

    Of pairs picked at random where there are enough, else of people, else of everyone; None without two labels.
    """
    for name, least in ((AT_RANDOM, ENOUGH), (PEOPLE, 1), (EVERYONE, 1)):
        found = parts.get(name)
        if found and found["pairs"] >= least and found["decided"]:
            share, low, high = found["decided"]
            ends = [ceiling(low), ceiling(high)]
            return {"accuracy": ceiling(share), "ci95": ends, "agreement": share, "pairs": found["pairs"], "of": name}
    return None


def rate(hits: Sequence[bool]) -> dict[str, Any] | None:
    """{"share", "ci95" (Wilson), "n"}, or None of nothing."""
    if not hits:
        return None
    return {"share": sum(hits) / len(hits), "ci95": list(wilson(sum(hits), len(hits))), "n": len(hits)}


def position(given: GivenLabels, labels: list[StoredLabel]) -> dict[str, Any] | None:
    """How often the preferred one of two answers was the one that was shown first."""
    verdicts = [
        (label.shown[0], sign(given.items[label.item], label))
        for label in labels
        if given.items[label.item].kind in COMPARED
    ]
    return rate([verdict == (1 if first == 0 else -1) for first, verdict in verdicts if verdict])


def sign(item: StoredItem, label: StoredLabel) -> int:
    """1 where a label of a pair prefers the item's first answer, -1 its second, 0 neither."""
    [(_, won, _)] = votes_in(item, label.scale, label.value)
    return int(np.sign(won - 0.5))


def annotator_rows(given: GivenLabels, votes: Votes) -> list[dict[str, Any]]:
    """What is known of each annotator; how reliable one is, with [low, high], where another has labelled the same."""
    with_others = set(votes.annotator[vote_pairs(votes).ravel()].tolist())
    accuracies = reliabilities(votes)[1].tolist() if with_others else []
    intervals = accuracy_intervals(votes).tolist() if with_others else []
    of_number = {votes.annotators[place]: place for place in with_others}
    rows = []
    for number in sorted({one.annotator for one in given.labels}):
        place = of_number.get(number)
        reliable = (None, None) if place is None else (accuracies[place], intervals[place])
        rows.append(annotator_row(given, votes, number) | dict(zip(RELIABLE, reliable, strict=True)))
    return rows


def annotator_row(given: GivenLabels, votes: Votes, number: int) -> dict[str, Any]:
    """What is known of one annotator by himself."""
    who = given.annotators[number]
    own = [label for label in given.labels if label.annotator == number]
    seconds = [label.seconds for label in own if label.seconds > 0]
    checks = [(given.items[label.item], label) for label in own if given.items[label.item].truth is not None]
    mine = votes.annotator == votes.annotators.index(number) if number in votes.annotators else np.zeros(0, bool)
    return {
        "number": number,
        "name": who.name if who.role in NAMED_ROLES else None,
        "role": who.role,
        "labels": sum(not label.repeat for label in own),
        "ties": float((votes.verdict[mine] == 0).mean()) if mine.any() else None,
        "seconds": float(np.median(seconds)) if seconds else None,
        "self_agreement": rate(self_agreement(given, own)),
        "checks": rate([sign(item, label) == (1, -1)[item.truth] for item, label in checks]),
        "position": position(given, own) if who.role == ANNOTATOR else None,
    }


def self_agreement(given: GivenLabels, own: list[StoredLabel]) -> list[bool]:
    """Of each pair that was shown twice to one annotator, whether he said the same."""
    first = {label.item: sign(given.items[label.item], label) for label in own if is_first_of_pair(given, label)}
    again = [label for label in own if label.repeat and label.item in first]
    return [sign(given.items[label.item], label) == first[label.item] for label in again]


def is_first_of_pair(given: GivenLabels, label: StoredLabel) -> bool:
    """Whether it is a label of a pair that was shown for the first time."""
    return not label.repeat and given.items[label.item].kind in COMPARED


def matrix(votes: Votes, given: GivenLabels) -> list[dict[str, Any]]:
    """For every two annotators who have voted on the same: how often they agree, and beyond chance."""
    by = [dict(zip(votes.unit[mine].tolist(), votes.verdict[mine].tolist(), strict=True)) for mine in masks(votes)]
    rows = []
    for a, b in combinations(sorted(range(len(by)), key=votes.annotators.__getitem__), 2):
        both = sorted(by[a].keys() & by[b].keys())
        if both:
            first, second = (np.array([by[one][unit] for unit in both]) for one in (a, b))
            agreed = resampled(first == second, votes.item[both])
            who = {"first": votes.annotators[a], "second": votes.annotators[b]}
            rows.append({**who, "n": len(both), "agreement": agreed, "kappa": cohens_kappa(first, second)})
    return rows


def masks(votes: Votes) -> list[np.ndarray]:
    """For each annotator which votes are his."""
    return [votes.annotator == place for place in range(len(votes.annotators))]

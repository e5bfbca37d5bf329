"""Merging labels: by hand, and against annotators whose accuracy is known."""

import numpy as np
import pytest

from easyrlhf.labels.merge import majorities, reliabilities, shares, strengths
from easyrlhf.labels.rows import StoredItem, StoredLabel
from easyrlhf.labels.votes import Unit, Votes, votes_of


def votes(rows: list[tuple[int, int, float]], units: int, annotators: int, strength=None) -> Votes:
    unit, annotator, share = (np.array(column) for column in zip(*rows, strict=True))
    share = share.astype(float)
    strength = 2 * share - 1 if strength is None else np.array(strength)
    return Votes([Unit(n) for n in range(units)], list(range(annotators)), unit, annotator, share, strength)


TWO_WINS_A_LOSS_A_TIE = [(0, 0, 1.0), (0, 1, 1.0), (0, 2, 0.0), (0, 3, 0.5), (1, 0, 0.0), (2, 1, 1.0), (2, 2, 0.0)]


def test_share_is_wins_and_half_of_the_ties():
    assert shares(votes(TWO_WINS_A_LOSS_A_TIE, 3, 4)).tolist() == [2.5 / 4, 0.0, 0.5]


def test_majority_is_whole_or_a_tie():
    assert majorities(votes(TWO_WINS_A_LOSS_A_TIE, 3, 4)).tolist() == [1.0, 0.0, 0.5]


def test_strength_is_the_signed_mean():
    given = votes([(0, 0, 1.0), (0, 1, 0.0)], 1, 2, strength=[1.0, -1 / 3])
    assert strengths(given).tolist() == pytest.approx([1 / 3])


def test_one_annotator_alone_is_believed_as_far_as_the_prior():
    """The one fixed point above ½: with p = q for each of n labels, q = (n q + 1) / (n + 2), so q = ½."""
    chance, accuracy = reliabilities(votes([(n, 0, 1.0) for n in range(10)], 10, 1))
    assert accuracy[0] == pytest.approx(0.5, abs=1e-6)
    assert chance[0] == pytest.approx(0.5, abs=1e-6)


def simulated(seed: int) -> tuple[Votes, np.ndarray]:
    """Three annotators, right with .95, .75 and .55, on 1,000 pairs of which half have the first answer better."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 2, 1000)
    right = generator.random((3, 1000)) < np.array([[0.95], [0.75], [0.55]])
    said = np.where(right, truth, 1 - truth)
    rows = [(n, a, float(said[a, n])) for a in range(3) for n in range(1000)]
    return votes(rows, 1000, 3), truth


@pytest.mark.parametrize("seed", [0, 6])
def test_reliability_finds_who_is_right(seed):
    given, truth = simulated(seed)
    chance, accuracy = reliabilities(given)
    assert np.abs(accuracy - [0.95, 0.75, 0.55]).max() < 0.05
    assert ((chance > 0.5) == truth).mean() >= 0.94
    assert (majorities(given) == truth).mean() <= 0.91


@pytest.mark.parametrize(
    ("seed", "expected"), [(0, (0.92, 0.79, 0.56)), (1, (0.85, 0.84, 0.56)), (3, (0.89, 0.79, 0.56))]
)
def test_reliability_is_the_likeliest_by_a_search_of_all(seed, expected):
    """What a search of the posterior on a grid of .01 found. Beside a coin, two good annotators are hard to tell
    apart: so many labels of seed 1 are explained best by two equals."""
    _, accuracy = reliabilities(simulated(seed)[0])
    assert accuracy.tolist() == pytest.approx(expected, abs=0.01)


def test_a_ranking_is_a_vote_on_each_two_of_its_answers():
    item = StoredItem("ranking", "q", ["a", "b", "c"], id=7)
    label = StoredLabel("x", 7, 1, [[2], [0, 1]], "order", role="annotator")
    given = votes_of([item], [label])
    assert given.units == [Unit(7, 0, 1), Unit(7, 0, 2), Unit(7, 1, 2)]
    assert given.share.tolist() == [0.5, 0.0, 0.0]


@pytest.mark.parametrize(
    ("kind", "scale", "value", "share", "strength"),
    [
        ("pair", "7", -2, 0.0, -2 / 3),
        ("pair", "8", 3, 1.0, 0.75),
        ("pair", "3", 0, 0.5, 0.0),
        ("pair", "probability", 0.7, 0.7, 0.4),
        ("answer", "liked", False, 0.0, -1.0),
        ("answer", "likert", 6, 1.0, 2 / 3),
        ("answer", "likert", 4, 0.5, 0.0),
    ],
)
def test_votes_of_every_scale(kind, scale, value, share, strength):
    item = StoredItem(kind, "q", ["a", "b"][: 2 if kind == "pair" else 1], id=1)
    given = votes_of([item], [StoredLabel("x", 1, 1, value, scale, role="annotator")])
    assert (given.share[0], given.strength[0]) == pytest.approx((share, strength))

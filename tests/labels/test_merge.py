"""Merging labels: by hand, and against annotators whose accuracy is known."""

import numpy as np
import pytest

from easyrlhf.labels.merge import majorities, shares, strengths
from easyrlhf.labels.reliability import accuracy_intervals, reliabilities
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


def pairs_of_votes(both: int, differ: int, annotators: int = 2) -> Votes:
    """So many units on which two agree, and on which they differ; others call all of them a tie."""
    said = [(1.0, 1.0)] * both + [(1.0, 0.0)] * differ
    rows = [(unit, who, share) for unit, shares in enumerate(said) for who, share in enumerate(shares)]
    rows += [(unit, who, 0.5) for unit in range(both + differ) for who in range(2, annotators)]
    return votes(rows, both + differ, annotators)


def test_of_two_who_agree_in_82_percent_each_may_be_always_right():
    """In 820 of 1,000: (2p - 1)(2q - 1) = .64, so that p may be .82 to 1 where q is what is left; the 820 of 1,000 are
    within 1.92 nats of their likeliest share, p q + (1 - p)(1 - q), from .7953 to .8430."""
    found = accuracy_intervals(pairs_of_votes(820, 180, annotators=3))
    assert found[:2].tolist() == [pytest.approx([0.795, 1.0], abs=1e-9)] * 2
    assert found[2].tolist() == [0.0, 1.0]  # one who only ties


def test_a_third_who_guesses_leaves_two_good_ones_hard_to_tell_apart():
    """The likeliest accuracies are within .05 of all three in a third of the draws; the intervals hold the truth. Their
    mean widths in 60 other draws, by another search and a coarser grid, were .22, .21 and .066."""
    truth = np.array([0.95, 0.75, 0.55])
    drawn = [simulated(seed)[0] for seed in range(6)]
    ends = np.array([accuracy_intervals(one) for one in drawn])
    assert ((ends[:, :, 0] <= truth) & (truth <= ends[:, :, 1])).sum(axis=0).tolist() == [6, 6, 6]
    assert np.diff(ends, axis=2).mean(axis=0).ravel().tolist() == pytest.approx([0.22, 0.21, 0.066], abs=0.03)


def test_one_who_says_the_contrary_is_found_below_one_half():
    generator = np.random.default_rng(3)
    truth = generator.integers(0, 2, 500)
    right = generator.random((3, 500)) < np.array([[0.9], [0.8], [0.1]])
    rows = [(n, a, float(np.where(right, truth, 1 - truth)[a, n])) for a in range(3) for n in range(500)]
    found = accuracy_intervals(votes(rows, 500, 3))
    assert (found[:, 0] <= [0.9, 0.8, 0.1]).all() and (found[:, 1] >= [0.9, 0.8, 0.1]).all()
    assert found[2, 1] < 0.2 and found[:2, 0].min() > 0.7


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

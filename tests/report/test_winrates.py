"""Win rates and their intervals, against sums done by hand and published values."""

import math

import numpy as np
import pytest

from easyrlhf.report.winrates import (
    effective_size,
    firth_logistic,
    length_controlled,
    longer_wins,
    mean_interval,
    win_rate,
)

pytestmark = pytest.mark.usefixtures("pictures")

Z = 1.959964


def alone(count: int) -> np.ndarray:
    """Every pair has a prompt of its own."""
    return np.arange(count)


@pytest.mark.parametrize(
    "labels, expected",
    [
        ([1] * 6 + [0] * 4, (0.6, 0.31267, 0.83182)),  # 6 of 10: the published interval
        ([1] * 5 + [0.5] * 2 + [0] * 3, (0.6, 0.31267, 0.83182)),  # two ties are one win
        ([1] * 2, (1.0, 2 / (2 + Z**2), 1.0)),  # n / (n + z²): no certainty from two pairs
    ],
)
def test_win_rates_of_single_pairs_have_wilsons_interval(labels, expected):
    assert win_rate(np.array(labels, float), alone(len(labels))) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "labels, prompts, size",
    [
        ([1, 1, 0, 0], [0, 0, 1, 1], 2),  # the pairs of a prompt agree: they are worth one
        ([1, 0, 1, 0], [0, 0, 1, 1], 4),  # each prompt is split: no prompt tells of another, at most N
        ([1, 1, 1, 0], [0, 0, 1, 1], 4),  # residuals ¼ ¼ | ¼ −¾: variance (¼ + ¼)/16 = 1/32; 3/16 ÷ 1/32 = 6 > N
        ([1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 2], 36 / 14),  # sums 1½ −1 −½: variance 3½/36; ¼ ÷ 3½/36
        ([1, 1, 1, 1], [0, 0, 1, 1], 2),  # all won: as many as prompts
        ([1, 0, 0.5], [0, 1, 2], 3),
    ],
)
def test_pairs_of_one_prompt_count_as_far_as_they_differ(labels, prompts, size):
    assert effective_size(np.array(labels, float), np.array(prompts)) == pytest.approx(size)


def test_copies_of_every_answer_do_not_narrow_the_interval():
    once = win_rate(np.array([1, 1, 0, 1, 0.0]), alone(5))
    copied = win_rate(np.repeat([1, 1, 0, 1, 0.0], 7), np.repeat(alone(5), 7))
    assert copied == pytest.approx(once)


def test_the_interval_of_a_mean_is_clustered_by_prompt():
    assert mean_interval([1, 3], alone(2)) == pytest.approx((2, 2 - Z, 2 + Z))  # standard error √2/√2 = 1
    assert mean_interval([1, 1, 3, 3], [5, 5, 9, 9]) == pytest.approx((2, 2 - Z, 2 + Z))
    wide = math.sqrt(20 / 3) / 2  # of 1, 3, 5, 7 each alone: standard deviation √(20/3)
    assert mean_interval([1, 3, 5, 7], alone(4)) == pytest.approx((4, 4 - Z * wide, 4 + Z * wide))
    assert mean_interval([1, 3], [0, 0]) == (2, None, None)


def test_firths_estimate_adds_half_a_pair_to_every_cell():
    """In a saturated 2×2 table it is the correction of Haldane and Anscombe, finite where all were won."""
    features = np.array([[1, 0]] * 3 + [[1, 1]] * 3, float)
    weights, _ = firth_logistic(features, np.array([1, 0, 0, 1, 1, 1.0]))
    assert weights[0] == pytest.approx(math.log(1.5 / 2.5))
    assert weights.sum() == pytest.approx(math.log(3.5 / 0.5))
    intercept, covariance = firth_logistic(np.ones((3, 1)), np.ones(3))
    assert intercept[0] == pytest.approx(math.log(7))  # 3.5 of 4
    assert covariance[0, 0] == pytest.approx(1 / (3 * 7 / 64))


def lengths(count: int, longer_by: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Characters of the answers of a model that writes more, and of the first model."""
    rng = np.random.default_rng(seed)
    first = rng.integers(100, 300, count)
    return first + rng.normal(longer_by, 60, count).round(), first, rng


@pytest.mark.parametrize("sharp", [math.inf, 30.0])
def test_a_judge_that_only_counts_words_is_seen_through(sharp):
    ours, first, rng = lengths(1000, longer_by=50)
    if math.isinf(sharp):
        labels = (np.sign(ours - first) + 1) / 2
    else:
        labels = (rng.random(1000) < 1 / (1 + np.exp(-(ours - first) / sharp))).astype(float)
    raw, low, _ = win_rate(labels, alone(1000))
    assert raw > 0.7 and low > 0.65
    rate, low, high = length_controlled(labels, ours, first, alone(1000))
    assert rate == pytest.approx(0.5, abs=0.05)
    assert low < 0.5 < high
    assert longer_wins(labels, ours, first) == pytest.approx(1.0 if math.isinf(sharp) else 0.9, abs=0.08)


def test_a_judge_that_does_not_count_words_is_left_alone():
    ours, first, rng = lengths(4000, longer_by=50)
    labels = (rng.random(4000) < 0.7).astype(float)
    raw, _, _ = win_rate(labels, alone(4000))
    rate, low, high = length_controlled(labels, ours, first, alone(4000))
    assert raw == pytest.approx(0.7, abs=0.02)
    assert low < 0.7 < high
    assert rate == pytest.approx(raw, abs=0.03)


def test_a_better_model_that_also_writes_more_keeps_what_is_its_own():
    """The judge prefers it with logit 1 at equal length, and longer answers besides."""
    ours, first, rng = lengths(4000, longer_by=40)
    gap = ours - first
    labels = (rng.random(4000) < 1 / (1 + np.exp(-(1 + np.tanh(gap / gap.std()))))).astype(float)
    rate, low, high = length_controlled(labels, ours, first, alone(4000))
    assert rate == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)  # 0.731
    assert win_rate(labels, alone(4000))[0] > rate + 0.04
    assert low < 1 / (1 + math.exp(-1)) < high


def test_equal_lengths_leave_the_win_rate_and_lengths_that_never_meet_leave_nothing():
    labels, same = np.array([1] * 30 + [0] * 10, float), np.full(40, 9)
    rate, low, high = length_controlled(labels, same, same, alone(40))
    assert rate == pytest.approx(30.5 / 41)
    half = Z / math.sqrt(40 * (30.5 / 41) * (10.5 / 41))
    assert math.log(high / (1 - high)) - math.log(rate / (1 - rate)) == pytest.approx(half)
    assert math.log(rate / (1 - rate)) - math.log(low / (1 - low)) == pytest.approx(half)
    assert length_controlled(labels, same + 5, same, alone(40)) is None
    assert length_controlled(labels, same, same + np.arange(1, 41), alone(40)) is None


def test_copies_do_not_narrow_the_interval_at_equal_length():
    ours, first, rng = lengths(60, longer_by=10)
    labels = (rng.random(60) < 0.6).astype(float)
    once = length_controlled(labels, ours, first, alone(60))
    copied = length_controlled(*(np.repeat(values, 20) for values in (labels, ours, first, alone(60))))
    widths = [math.log(high / (1 - high)) - math.log(low / (1 - low)) for _, low, high in (once, copied)]
    assert widths[1] == pytest.approx(widths[0], rel=0.1)


def test_longer_wins_counts_pairs_with_a_winner_and_a_longer_answer():
    labels = np.array([1, 1, 0, 0.5, 1, 0])
    assert longer_wins(labels, np.array([5, 2, 1, 9, 4, 7]), np.array([3, 3, 3, 3, 4, 3])) == pytest.approx(2 / 4)
    assert longer_wins(np.array([0.5]), np.array([1]), np.array([2])) is None

"""How far those who label agree: measures of votes, all pure numpy."""

import math
from itertools import combinations

import numpy as np

from easyrlhf.errors import InputError
from easyrlhf.labels.votes import Votes

RESAMPLES, RESAMPLE_SEED = 1000, 0  # of the bootstrap
AT_ONCE = 100  # resamples worked out together


def cohens_kappa(first: np.ndarray, second: np.ndarray) -> float | None:
    """Agreement of two beyond chance (Cohen 1960): (p_o - p_e) / (1 - p_e); None where chance alone agrees always.

    first, second  [N]  what each of the two says of the same N things
    """
    if not len(first):
        return None
    values = np.unique(np.concatenate([first, second]))
    observed = float(np.mean(first == second))
    expected = float(sum(np.mean(first == value) * np.mean(second == value) for value in values))
    return None if expected == 1 else (observed - expected) / (1 - expected)


def nominal_alpha(counts: np.ndarray) -> float | None:
    """Krippendorff's alpha (2011) of values that are equal or not: 1 for perfect agreement, 0 for that of chance.

    counts  [U, V]  labels of each unit that have each value; units with fewer than two count for nothing
    returns None where nothing varies
    Raises InputError where the library that computes it is not installed.
    """
    try:
        import krippendorff
    except ImportError as error:
        raise InputError("Krippendorff's alpha needs a library; pip install 'easyrlhf[label]'") from error
    pairable = counts[counts.sum(axis=1) >= 2]
    if (pairable.sum(axis=0) > 0).sum() < 2:
        return None
    values = np.arange(counts.shape[1])
    return float(krippendorff.alpha(value_counts=pairable, value_domain=values, level_of_measurement="nominal"))


def interval_alpha(units: np.ndarray, values: np.ndarray) -> float | None:
    """Krippendorff's alpha of numbers, whose squared differences count: 1 - (n - 1) / n · D_o / D_e in their sums.

    units, values  [V]  the unit of each label, and its number; units with a single label count for nothing
    returns None where nothing varies
    """
    _, places, sizes = np.unique(units, return_inverse=True, return_counts=True)
    paired = sizes[places] >= 2
    places, values = places[paired], values[paired]
    if not values.size or np.ptp(values) == 0:
        return None
    centred = values - values.mean()
    size, total, squares = (np.bincount(places, weight, len(sizes)) for weight in (None, centred, centred**2))
    kept = size >= 2
    within = np.sum((size * squares - total**2)[kept] / (size[kept] - 1))  # half of Σ (v - v')² / (m - 1)
    return float(1 - (values.size - 1) * within / (values.size * squares.sum()))


def vote_pairs(votes: Votes) -> np.ndarray:
    """All two votes of one unit by different annotators: their places among the votes.  [P, 2]"""
    order = np.argsort(votes.unit, kind="stable")
    bounds = np.flatnonzero(np.diff(votes.unit[order])) + 1
    found = [
        pair
        for group in np.split(order, bounds)
        for pair in combinations(group.tolist(), 2)
        if votes.annotator[pair[0]] != votes.annotator[pair[1]]
    ]
    return np.array(found, int).reshape(-1, 2)


def share_with_interval(hits: np.ndarray, items: np.ndarray) -> tuple[float, float, float]:
    """The share of hits with its 95 % interval: percentiles of 1,000 bootstrap resamples of items.

    hits   [P]  1 or 0
    items  [P]  the item of each: all of one item are drawn together
    """
    _, places = np.unique(items, return_inverse=True)
    sums, sizes = np.bincount(places, hits), np.bincount(places)
    generator = np.random.default_rng(RESAMPLE_SEED)
    rates = []
    for start in range(0, RESAMPLES, AT_ONCE):
        drawn = generator.integers(0, len(sums), (min(AT_ONCE, RESAMPLES - start), len(sums)))
        rates.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = np.percentile(np.concatenate(rates), [2.5, 97.5])
    return float(np.mean(hits)), float(low), float(high)


def ceiling(agreement: float) -> float:
    """Accuracy of one label where two independent ones agree so often: q² + (1 - q)² = a, so q = (1 + √(2a - 1)) / 2.

    It is the most that a reward model can score on single labels, and an upper bound of that: where pairs differ in
    difficulty, the same agreement comes of a lower accuracy. ½ for an agreement of ½ or less.
    """
    return (1 + math.sqrt(max(0.0, 2 * agreement - 1))) / 2

"""Measures of agreement against tables that were published with their results, and by hand."""

import sys

import krippendorff
import numpy as np
import pytest

from easyrlhf.errors import InputError
from easyrlhf.labels.agreement import (
    ceiling,
    cohens_kappa,
    interval_alpha,
    nominal_alpha,
    share_with_interval,
    vote_pairs,
)
from easyrlhf.labels.votes import Unit, Votes

# Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, section C: four observers, twelve units, 0 where
# there is no value. The paper gives .743 for nominal data, 1 - 39 · 4 / 608, and .849 for interval data,
# 1 - 39 · (26/3) / 2240, of 40 values that can be paired.
OBSERVED = """
1 2 3 3 2 1 4 1 2 0 0 0
1 2 3 3 2 2 4 1 2 5 0 3
0 3 3 3 2 3 4 2 2 5 1 0
1 2 3 3 2 4 4 1 2 5 1 0
"""
TABLE = np.array([line.split() for line in OBSERVED.strip().splitlines()], int)


def test_nominal_alpha_of_krippendorffs_own_table():
    counts = np.stack([(value == TABLE).sum(axis=0) for value in range(1, 6)], axis=1)
    assert nominal_alpha(counts) == pytest.approx(113 / 152, abs=1e-9)


def test_without_the_library_alpha_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "krippendorff", None)
    with pytest.raises(InputError, match=r"pip install 'easyrlhf\[label\]'"):
        nominal_alpha(np.array([[1, 1]]))


def test_interval_alpha_of_krippendorffs_own_table():
    _, units = np.nonzero(TABLE)
    assert interval_alpha(units, TABLE[TABLE > 0]) == pytest.approx(951 / 1120, abs=1e-9)


def test_interval_alpha_of_any_numbers_is_that_of_the_library():
    generator = np.random.default_rng(0)
    table = generator.normal(size=(4, 30))
    table[generator.random(table.shape) < 0.3] = np.nan
    units = np.nonzero(~np.isnan(table))[1]
    expected = krippendorff.alpha(reliability_data=table, level_of_measurement="interval")
    assert interval_alpha(units, table[~np.isnan(table)]) == pytest.approx(expected, abs=1e-9)


def test_alpha_says_nothing_where_nothing_varies():
    assert nominal_alpha(np.array([[2, 0], [3, 0]])) is None
    assert interval_alpha(np.array([0, 0, 1]), np.array([1.0, 1.0, 5.0])) is None


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        # Fleiss, Levin & Paik (2003), table 18.1: 100 subjects, three diagnoses; .68
        ([[75, 1, 4], [5, 4, 1], [0, 0, 10]], 0.23 / 0.34),
        # Cohen (1960), table 1: 200 patients, three disorders
        ([[50, 26, 24], [24, 4, 32], [6, 30, 4]], (0.29 - 0.35) / (1 - 0.35)),
        # 50 proposals read by two: agreement .7, by chance .5
        ([[20, 5], [10, 15]], 0.4),
    ],
)
def test_cohens_kappa_of_published_tables(table, expected):
    rows, columns = np.indices(np.shape(table))
    first, second = (np.repeat(one.ravel(), np.ravel(table)) for one in (rows, columns))
    assert cohens_kappa(first, second) == pytest.approx(expected, abs=1e-9)


def test_kappa_says_nothing_where_nothing_varies():
    assert cohens_kappa(np.array([1, 1]), np.array([1, 1])) is None


def test_pairs_of_votes_are_of_one_unit_and_two_annotators():
    unit, annotator = np.array([0, 1, 0, 0, 1]), np.array([0, 0, 1, 2, 0])
    votes = Votes([Unit(5), Unit(6)], [1, 2, 3], unit, annotator, np.ones(5), np.ones(5))
    assert vote_pairs(votes).tolist() == [[0, 2], [0, 3], [2, 3]]


def test_the_interval_of_agreement_is_that_of_items():
    """Ten pairs of labels an item that all say the same are worth one: a coin's interval for 100, not 1,000."""
    hits, items = np.repeat(np.arange(100) % 2, 10), np.repeat(np.arange(100), 10)
    share, low, high = share_with_interval(hits, items)
    assert share == 0.5
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / 10, abs=0.02)


@pytest.mark.parametrize(
    ("agreement", "expected"), [(0.82, 0.9), (0.625, 0.75), (0.63, (1 + 0.26**0.5) / 2), (1, 1), (0.5, 0.5), (0.4, 0.5)]
)
def test_the_ceiling_of_an_agreement(agreement, expected):
    assert ceiling(agreement) == pytest.approx(expected, abs=1e-12)

"""Measures of agreement against tables that were published with their results, and by hand."""

import numpy as np
import pytest

from easyrlhf.labels.agreement import krippendorff_alpha

# Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, section C: four observers, twelve units, 0 where
# there is no value. The paper gives .743 for nominal data, 1 - 39 · 4 / 608, and .849 for interval data,
# 1 - 39 · (26/3) / 2240, of 40 values that can be paired.
OBSERVED = """
1 2 3 3 2 1 4 1 2 0 0 0
1 2 3 3 2 2 4 1 2 5 0 3
0 3 3 3 2 3 4 2 2 5 1 0
1 2 3 3 2 4 4 1 2 5 1 0
"""


@pytest.mark.parametrize(("level", "expected"), [("nominal", 113 / 152), ("interval", 951 / 1120)])
def test_krippendorffs_alpha_of_his_own_table(level, expected):
    table = np.array([line.split() for line in OBSERVED.strip().splitlines()], int)
    counts = np.stack([(table == value).sum(axis=0) for value in range(1, 6)], axis=1)
    assert krippendorff_alpha(counts, np.arange(1, 6), level) == pytest.approx(expected, abs=1e-9)


def test_alpha_says_nothing_where_nothing_varies():
    assert krippendorff_alpha(np.array([[2, 0], [3, 0], [1, 1]])[:2], np.array([0, 1]), "nominal") is None

"""The examination of a reward model, against numbers worked out by hand."""

import json
import math

import pytest

from easyrlhf.report.rm_eval import rm_evaluation, wilson


def test_accuracy_ties_and_length_baseline_of_four_pairs():
    found = rm_evaluation([2, 1, 0, 1], [1, 2, 0, 0], [5, 9, 3, 7], [3, 3, 3, 9])
    assert found["accuracy"] == 0.625  # right, wrong, tie, right: (1 + 0 + 1/2 + 1) / 4
    assert found["ties"] == 0.25
    assert found["length_baseline_accuracy"] == 0.625  # longer, longer, same, shorter
    assert found["n"] == 4


def test_the_length_baseline_takes_the_better_direction():
    found = rm_evaluation([1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 9], [2, 2, 2, 2])
    assert found["length_baseline_accuracy"] == 0.75  # "shorter wins" is right in three of four


def test_the_wilson_interval_of_eight_in_ten():
    # (0.8 + 3.8415/20 ± 1.96 √(0.016 + 3.8415/400)) / (1 + 3.8415/10)
    # = (0.99207 ± 0.31364) / 1.38415
    assert wilson(8, 10) == pytest.approx((0.4901, 0.9433), abs=2e-4)


def test_the_wilson_interval_of_all_right_stays_below_one_and_has_width():
    low, high = wilson(10, 10)
    assert high == pytest.approx(1.0)
    assert low == pytest.approx(1 / 1.38415, abs=1e-4)  # n / (n + z²)


def test_accuracy_by_length_gap_splits_at_the_median_gap():
    # gaps −4, −1, 0, +1, +5, +6; the median of |gap| without 0 is 4, so "much" begins at 5
    found = rm_evaluation([1, 0, 1, 1, 1, 0], [0, 1, 0, 0, 0, 1], [1, 4, 5, 6, 10, 11], [5, 5, 5, 5, 5, 5])
    assert found["by_length_gap"] == [
        {"low": -4, "high": -1, "n": 2, "accuracy": 0.5},
        {"low": 0, "high": 0, "n": 1, "accuracy": 1.0},
        {"low": 1, "high": 1, "n": 1, "accuracy": 1.0},
        {"low": 5, "high": 6, "n": 2, "accuracy": 0.5},
    ]


def test_calibration_compares_the_claimed_with_the_actual_share():
    # margins ±ln 3 claim 3/4; one of the two is right. margin ln 19 claims 0.95 and is right.
    found = rm_evaluation([math.log(3), 0, math.log(19)], [0, math.log(3), 0], [1, 1, 1], [1, 1, 1])
    sure, surest = found["calibration"]
    assert (sure["predicted"], sure["observed"], sure["n"]) == (pytest.approx(0.75), 0.5, 2)
    assert (surest["predicted"], surest["observed"], surest["n"]) == (pytest.approx(0.95), 1.0, 1)


def test_both_histograms_share_their_edges_and_count_every_score():
    found = rm_evaluation([0, 1, 2], [-4, 0, 1], [1, 1, 1], [2, 2, 2])
    chosen, rejected = found["chosen_histogram"], found["rejected_histogram"]
    assert chosen["edges"] == rejected["edges"]
    assert (chosen["edges"][0], chosen["edges"][-1]) == (-4, 2)
    assert sum(chosen["counts"]) == sum(rejected["counts"]) == 3
    assert rejected["counts"][0] == 1 and chosen["counts"][0] == 0


def test_equal_scores_everywhere_are_all_ties_and_no_error():
    found = rm_evaluation([1, 1], [1, 1], [3, 3], [3, 3])
    assert (found["accuracy"], found["ties"]) == (0.5, 1.0)


def test_the_result_is_plain_json():
    found = rm_evaluation([1, 2], [0, 3], [4, 5], [6, 2])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_no_pair_and_scores_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="no pair"):
        rm_evaluation([], [], [], [])
    with pytest.raises(ValueError, match="not finite"):
        rm_evaluation([math.nan], [0], [1], [1])

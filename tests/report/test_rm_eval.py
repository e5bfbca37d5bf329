"""The examination of a reward model, against numbers worked out by hand."""

import json
import math

import numpy as np
import pytest

from easyrlhf.report.rm_eval import calibration, calibration_error, chance_error, rm_evaluation, wilson
from easyrlhf.report.rm_verdict import means_its_margins

pytestmark = pytest.mark.usefixtures("pictures")


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
    # 20 margins ±ln 3 claim 3/4, half of them right; 20 margins ln 19 claim 0.95, all right
    margins = np.log([3.0] * 20 + [19.0] * 20) * ([1, -1] * 10 + [1] * 20)
    unsure, sure = calibration(margins, (margins > 0).astype(float))
    assert (unsure["predicted"], unsure["observed"], unsure["n"]) == (pytest.approx(0.75), 0.5, 20)
    assert (sure["predicted"], sure["observed"], sure["n"]) == (pytest.approx(0.95), 1.0, 20)


def test_few_pairs_are_one_bin():
    # margins ±ln 3 claim 3/4, one of the two is right; margin ln 19 claims 0.95 and is right
    found = rm_evaluation([math.log(3), 0, math.log(19)], [0, math.log(3), 0], [1, 1, 1], [1, 1, 1])
    (only,) = found["calibration"]
    assert (only["predicted"], only["observed"], only["n"]) == (pytest.approx(2.45 / 3), pytest.approx(2 / 3), 3)
    assert found["ece"] == pytest.approx(0.15)
    assert [b["n"] for b in calibration(np.linspace(0.1, 3, 39), np.ones(39))] == [39]


def test_bins_hold_equally_many_pairs_ten_at_most_and_never_split_equal_margins():
    margins = np.linspace(0.1, 3, 1000)
    bins = calibration(margins, np.ones(1000))
    assert [b["n"] for b in bins] == [100] * 10
    assert [b["predicted"] for b in bins] == sorted(b["predicted"] for b in bins)
    assert [b["n"] for b in calibration(np.full(1000, 2.0), np.ones(1000))] == [1000]
    assert [b["n"] for b in calibration(np.array([1.0] * 70 + [2.0] * 30), np.ones(100))] == [70, 30]


def test_the_calibration_error_is_the_mean_distance_over_pairs():
    bins = [{"predicted": 0.75, "observed": 0.5, "n": 2}, {"predicted": 0.95, "observed": 1.0, "n": 1}]
    assert calibration_error(bins) == pytest.approx((2 * 0.25 + 0.05) / 3)


def test_chance_is_the_error_that_a_calibrated_model_shows():
    # E|x − p| of a share of 100 with p = 0.8 is √(2/π) · 0.04
    assert chance_error([{"predicted": 0.8, "observed": 0.1, "n": 100}]) == pytest.approx(0.031915, abs=1e-6)
    rng = np.random.default_rng(0)
    margins = rng.uniform(0.2, 3, 2000)
    right = rng.random((40, 2000)) < 1 / (1 + np.exp(-margins))
    errors = [calibration_error(calibration(margins, row.astype(float))) for row in right]
    assert np.mean(errors) == pytest.approx(chance_error(calibration(margins, right[0])), rel=0.1)


def test_accuracy_of_each_file_has_its_interval():
    found = rm_evaluation([1, 1, 0, 1], [0, 0, 1, 1], [1] * 4, [1] * 4, ["b", "a", "b", "a"])
    first, second = found["by_source"]
    assert (first["source"], first["n"], first["accuracy"]) == ("b", 2, 0.5)
    assert (second["source"], second["n"], second["accuracy"]) == ("a", 2, 0.75)
    assert second["ci95"] == list(wilson(1.5, 2))
    assert "by_source" not in rm_evaluation([1], [0], [1], [1])


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


LN2, LN3 = math.log(2), math.log(3)


def test_pairs_labelled_a_tie_have_no_right_answer_and_soft_labels_count_as_their_probability():
    # margins ln 3 (a soft label), −ln 3 (a sure one), ln 3 (a tie), of three lengths and files
    found = rm_evaluation([LN3, 0, LN3], [0, LN3, 0], [9, 4, 1], [5, 5, 5], ["a", "a", "b"], [0.75, 1, 0.5])
    assert (found["accuracy"], found["n"], found["labelled_ties"]) == (0.5, 2, 1)
    assert [part["source"] for part in found["by_source"]] == ["a"]
    assert [(part["low"], part["n"]) for part in found["by_length_gap"]] == [(-1, 1), (4, 1)]
    assert found["length_baseline_accuracy"] == 0.5
    assert sum(found["chosen_histogram"]["counts"]) == 3
    # it says ¾ of every pair; the labels say ¾, 0 and ½
    [bins] = found["calibration"]
    assert bins == {"predicted": pytest.approx(0.75), "observed": pytest.approx(1.25 / 3), "n": 3}
    # ln 4/3 where σ is ¾, ln 4 where it is ¼
    right, wrong = math.log(4 / 3), math.log(4)
    costs = 0.75 * right + 0.25 * wrong, wrong, 0.5 * right + 0.5 * wrong
    assert found["cross_entropy"] == pytest.approx(sum(costs) / 3)
    assert found["label_entropy"] == pytest.approx((0.5623351446 + LN2) / 3)


def test_sure_labels_are_those_that_are_not_given():
    scores = [2, 1, 0, 1], [1, 2, 0, 0], [5, 9, 3, 7], [3, 3, 3, 9]
    assert rm_evaluation(*scores, None, [1.0] * 4) == rm_evaluation(*scores)
    with pytest.raises(ValueError, match="all are labelled ties"):
        rm_evaluation([1, 2], [0, 1], [1, 1], [1, 1], None, [0.5, 0.5])


def test_a_model_as_sure_as_its_labels_is_calibrated_although_it_ranks_all_right():
    # 60 pairs of margin ln 3 with labels of ¾
    ones = [1] * 60
    found = rm_evaluation([LN3] * 60, [0] * 60, ones, ones, None, [0.75] * 60)
    assert (found["accuracy"], found["ece"]) == (1, pytest.approx(0))
    assert "75.0% sure in the mean, 75.0% by the labels" in means_its_margins(found).says

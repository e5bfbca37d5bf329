"""When a run evaluates by itself: within a fifth of its work, by counts alone."""

import pytest

from easyrlhf.config import DPOConfig, GRPOConfig, RMConfig, SFTConfig
from easyrlhf.offline.evaluations import Evaluations, planned_evaluations, times_after


def planned(steps, trained, held_out, config_class=SFTConfig, **settings) -> Evaluations:
    needed = {"reward_funcs": "r.py:f"} if config_class is GRPOConfig else {}
    config = config_class(train_data="a.jsonl", valid_data="b.jsonl", **needed | settings)
    return planned_evaluations(config, steps, trained, held_out)


@pytest.mark.parametrize(
    "steps, trained, held_out, every, times, rows",
    [
        # three rows of evaluation a trained one, a fifth of that
        (100, 6400, 384, 10, 10, 384),  # 3,840 rows: ten times, as they stand
        (100, 6400, 385, 12, 9, 385),  # nine times 385 are 3,465, ten would be 3,850
        (24, 384, 57, 6, 4, 57),  # 230 rows: four times 57
        (24, 384, 230, 24, 1, 230),  # once, at the end
        (24, 384, 252, 24, 1, 230),  # 252 are too many even once
        (2, 8, 5000, 2, 1, 100),  # a trial: a hundred rows, though 4 would be a fifth
        (2, 8, 24, 2, 1, 24),
        (1, 64, 30, 1, 1, 30),
        (19, 19 * 64, 10, 1, 19, 10),  # short runs are evaluated after every step
    ],
)
def test_evaluations_by_hand(steps, trained, held_out, every, times, rows):
    found = planned(steps, trained, held_out)
    assert (found.every, found.times, found.rows) == (every, times, rows)


def test_a_fifth_of_the_training_is_never_passed_but_by_a_trial():
    for steps in (1, 7, 24, 99, 100, 1001):
        for held_out in (1, 50, 252, 999, 20_000):
            found = planned(steps, steps * 64, held_out)
            assert found.times * found.rows <= max(100, steps * 64 * 3 / 5)
            assert found.times == times_after(0, found.every, steps)


def test_the_stages_that_sample_count_their_evaluation_before_the_first_step():
    # 100 x 64 answers are worth 12,800 evaluated ones; a fifth of that, 2,560, is ten times 256: one at the start
    found = planned(100, 6400, 256, GRPOConfig)
    assert (found.every, found.times, found.rows) == (12, 1 + 9, 256)
    assert planned(100, 6400, 256, GRPOConfig, eval_at_start=False).times == 9
    alone = planned(100, 6400, 10_000, GRPOConfig)
    assert (alone.every, alone.times, alone.rows) == (100, 2, 1280)


@pytest.mark.parametrize("config_class", [SFTConfig, RMConfig, DPOConfig, GRPOConfig])
def test_what_was_asked_for_is_done(config_class):
    often = planned(24, 384, 5000, config_class, eval_steps=2, eval_at_start=False)
    assert (often.every, often.times, often.rows) == (2, 12, 5000)
    at_the_end = planned(24, 384, 5000, config_class, eval_steps=0, eval_at_start=False)
    assert (at_the_end.times, at_the_end.rows) == (1, 5000)


def test_keep_best_chooses_among_as_many_evaluations_as_ever():
    found = planned(24, 384, 5000, keep_best="eval/loss")
    assert (found.every, found.times, found.rows) == (2, 12, 5000)


def test_the_summary_says_what_it_costs():
    # four times 57 are 228 rows beside 1,152
    assert planned(24, 384, 57).line() == "evaluating 4 times on 57 rows: about 17 % of the run"
    assert planned(24, 384, 252).line() == "evaluating once on 230 of 252 rows: about 17 % of the run"
    assert planned(24, 384, 252, eval_steps=2).line() == "evaluating 12 times on 252 rows: about 72 % of the run"


def test_a_sample_is_the_same_each_time_and_takes_no_turns():
    sample, again = (Evaluations(every=1, times=n, rows=100, of=200, trained=10, steps=n).numbers for n in (1, 2))
    assert sample == again == sorted(set(sample)) and len(sample) == 100
    assert sample[0] >= 0 and sample[-1] < 200
    # an even draw of 100 of 200 has 50 of either kind, give or take 3.5: no pattern of the file is met
    for period in (2, 4, 10):
        assert abs(sum(number % period < period // 2 for number in sample) - 50) < 12


def test_a_sample_is_read_as_its_rows_are(monkeypatch):
    rows = {"length": [10 * i for i in range(9)]}
    monkeypatch.setattr(Evaluations, "numbers", [0, 2, 4, 6])

    class Rows(list):
        def __getitem__(self, key):
            return rows[key] if isinstance(key, str) else super().__getitem__(key)

    sample = Evaluations(every=1, times=1, rows=4, of=9, trained=10, steps=1).chosen(Rows("abcdefghi"))
    assert [sample[i] for i in range(len(sample))] == ["a", "c", "e", "g"]
    assert sample["length"] == [0, 20, 40, 60]
    whole = Rows("abc")
    assert Evaluations(every=1, times=1, rows=3, of=3, trained=10, steps=1).chosen(whole) is whole


@pytest.mark.parametrize(
    "step, every, total, expected",
    [(0, 10, 24, 3), (9, 10, 24, 3), (10, 10, 24, 2), (20, 10, 24, 1), (24, 10, 24, 0), (0, 8, 24, 3), (3, 0, 24, 1)],
)
def test_what_is_still_to_come_by_hand(step, every, total, expected):
    assert times_after(step, every, total) == expected

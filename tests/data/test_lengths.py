"""Rows that are too long, in tokens that can be counted: ids are 1…9, BOS is 100."""

import pytest

from easyrlhf.data.lengths import Limits
from easyrlhf.errors import InputError

BOS = 100


def limits(max_length: int, max_prompt_length: int, overlength: str = "truncate", bos=BOS):
    return Limits(max_length, max_prompt_length, overlength, bos)


def fit(bound: Limits, row: dict) -> dict | None:
    """The only token row of a record as it fits."""
    kept = bound.fit([row])
    return kept and kept[0]


def comparison(prompt: int, chosen: int, rejected: int, bos: bool = False) -> dict:
    ids = [BOS] * bos + list(range(1, prompt + 1 - bos))
    longest = max(chosen, rejected)
    sides = {"chosen_ids": [7] * chosen, "rejected_ids": [8] * rejected}
    return {"prompt_ids": ids, **sides, "margin": 0.0, "length": prompt + longest}


def conversation(*stretches: tuple[int, int]) -> dict:
    """Stretches of (tokens, learned); ids count up from 1."""
    mask = [on for count, on in stretches for _ in range(count)]
    return {
        "input_ids": list(range(1, len(mask) + 1)),
        "loss_mask": mask,
        "length": len(mask),
    }


@pytest.mark.parametrize("overlength", ["drop", "truncate"])
def test_a_row_exactly_at_both_limits_fits_as_it_is(overlength):
    row = comparison(4, 2, 6)
    assert fit(limits(10, 4, overlength), row) == comparison(4, 2, 6)


@pytest.mark.parametrize("row", [comparison(5, 1, 1), comparison(4, 7, 1), comparison(4, 1, 7)])
def test_one_token_more_in_the_prompt_or_either_answer_is_too_long(row):
    assert fit(limits(10, 4, "drop"), row) is None


def test_truncation_keeps_the_end_of_the_prompt_and_whole_answers():
    kept = fit(limits(10, 4), comparison(6, 3, 2))
    assert kept["prompt_ids"] == [3, 4, 5, 6]
    assert (kept["chosen_ids"], kept["rejected_ids"], kept["length"]) == ([7] * 3, [8] * 2, 7)
    kept = fit(limits(10, 9), comparison(6, 2, 8))
    assert (kept["prompt_ids"], kept["rejected_ids"], kept["length"]) == ([5, 6], [8] * 8, 10)


def test_a_cut_prompt_keeps_its_bos():
    assert fit(limits(10, 4), comparison(6, 1, 1, bos=True))["prompt_ids"] == [BOS, 3, 4, 5]
    assert fit(limits(10, 4, bos=None), comparison(6, 1, 1, bos=True))["prompt_ids"] == [2, 3, 4, 5]


def test_a_bos_that_opens_every_turn_is_not_put_in_front_of_the_middle_of_one():
    row = comparison(6, 1, 1) | {"prompt_ids": [BOS, 1, 2, 3, BOS, 4]}
    assert fit(limits(10, 4), row)["prompt_ids"] == [2, 3, BOS, 4]


def test_an_answer_that_leaves_no_room_for_a_prompt_is_dropped():
    assert fit(limits(10, 4), comparison(3, 1, 10)) is None
    assert fit(limits(10, 4), comparison(3, 1, 9))["prompt_ids"] == [3]


def test_a_long_first_prompt_of_a_conversation_is_cut_from_the_left():
    kept = fit(limits(20, 2), conversation((5, 0), (2, 1), (2, 0), (2, 1)))
    assert kept["input_ids"] == [4, 5, 6, 7, 8, 9, 10, 11]
    assert kept["loss_mask"] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert kept["length"] == 8


def test_a_conversation_loses_its_oldest_turns_and_a_cut_answer_is_context():
    kept = fit(limits(6, 5), conversation((3, 0), (3, 1), (2, 0), (2, 1)))
    assert kept["input_ids"] == [5, 6, 7, 8, 9, 10]
    assert kept["loss_mask"] == [0, 0, 0, 0, 1, 1]


def test_the_last_answer_of_a_conversation_is_whole_and_has_a_context_or_the_row_is_dropped():
    row = conversation((3, 0), (4, 1))
    assert fit(limits(5, 5), row)["input_ids"] == [3, 4, 5, 6, 7]
    assert fit(limits(4, 4), row) is None


def test_a_prompt_row_is_cut_too():
    kept = fit(limits(10, 3), {"prompt_ids": [1, 2, 3, 4], "prompt": "", "length": 4})
    assert (kept["prompt_ids"], kept["length"]) == ([2, 3, 4], 3)


def test_up_to_a_tenth_may_be_dropped_for_length():
    bound = limits(10, 4, "drop")
    dropped = sum(fit(bound, comparison(4, 2 + 6 * (i < 10), 1)) is None for i in range(100))
    assert dropped == 10
    bound.check("train", 100, dropped)


def test_more_than_a_tenth_stops_and_says_which_limits_would_do():
    bound = limits(10, 4, "drop")
    rows = [comparison(4, 2, 1)] * 80 + [comparison(5, 3, 3)] * 19 + [comparison(90, 900, 1)]
    dropped = sum(fit(bound, row) is None for row in rows)
    assert dropped == 20
    with pytest.raises(InputError) as error:
        bound.check("train", 100, dropped)
    assert "train: 20 of 100 rows (20%) are too long" in str(error.value)
    assert "; --max_prompt_length 5 would keep 99 %, or cut prompts" in str(error.value)
    enough = limits(10, 5, "drop")
    assert sum(fit(enough, row) is None for row in rows) == 1


def test_both_limits_are_named_when_both_are_too_small():
    bound = limits(10, 4, "drop")
    for row in [comparison(5, 1, 1)] * 50 + [comparison(4, 40, 1)] * 50:
        fit(bound, row)
    with pytest.raises(InputError, match="--max_length 44 with --max_prompt_length 5 would keep"):
        bound.check("train", 100, 100)


def test_a_limit_shorter_than_every_row_says_so():
    bound = limits(10, 2, "drop")
    for _ in range(3):
        fit(bound, comparison(4, 2, 1))
    with pytest.raises(InputError, match="every one of the 3 rows is too long"):
        bound.check("train", 3, 3)


def test_a_record_of_several_rows_fits_as_a_whole_or_not_at_all_and_counts_once():
    bound = limits(10, 4, "drop")
    assert bound.fit([comparison(4, 2, 1), comparison(4, 7, 1)]) is None
    assert bound.fit([comparison(4, 2, 1), comparison(4, 1, 1)]) == [comparison(4, 2, 1), comparison(4, 1, 1)]
    with pytest.raises(InputError, match=r"1 of 2 rows \(50%\) are .* the longest 11\); --max_length 11 would"):
        bound.check("train", 2, 1)


def test_every_answer_of_a_ranking_keeps_its_length_when_the_prompt_is_cut():
    row = {"prompt_ids": [1, 2, 3, 4], "completions_ids": [[7] * 3, [8] * 5], "scores": [1.0, 0.0], "length": 9}
    kept = fit(limits(8, 4), row)
    assert kept == {**row, "prompt_ids": [2, 3, 4], "length": 8}


def test_advice_stops_at_what_the_model_was_made_for():
    wide = Limits(40, 20, "drop", None, places=50)
    for total in (30, 45, 48, 49, 60, 70):
        wide.fit([{"prompt_ids": [1] * 15, "chosen_ids": [1] * (total - 15), "rejected_ids": [1], "length": total}])
    with pytest.raises(InputError, match=r"--max_length 50 would keep 67%, and the model was made for no more than 50"):
        wide.check("train", 6, 5)


def test_rows_that_are_too_long_are_tolerated_as_far_as_is_said():
    Limits(40, 20, "drop", None, tolerated=1.0).check("valid", 10, 10)
    with pytest.raises(InputError):
        strict = Limits(40, 20, "drop", None)
        strict.fit([{"prompt_ids": [1] * 15, "length": 60}])
        strict.check("valid", 10, 2)


def test_many_rows_that_are_dropped_and_every_cut_are_said():
    bound = limits(10, 4, "drop")
    assert bound.notes(100, 10) == {}
    assert bound.notes(100, 11) == {"rows dropped as too long, which are 11% of all": 11}
    bound = limits(20, 4)
    rows = [comparison(4, 2, 2), comparison(6, 2, 2), comparison(18, 2, 1)]
    assert [fit(bound, row)["length"] for row in rows] == [6, 6, 6]
    assert bound.notes(3, 0) == {"rows cut from the left by --overlength truncate, one to 30% of its tokens": 2}


def test_remedies_that_a_command_does_not_have_are_not_advised():
    bound = limits(10, 4, None)
    assert fit(bound, comparison(5, 1, 1)) is None
    with pytest.raises(InputError, match=r"--max_prompt_length 5 would keep 99 %$"):
        bound.check("prompts", 1, 1)

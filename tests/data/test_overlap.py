"""Held-out rows that are trained on."""

from datasets import Dataset

from easyrlhf.data.overlap import trained_on


def test_rows_are_the_same_by_the_ids_of_prompt_and_answers():
    rows = Dataset.from_dict(
        {
            "prompt_ids": [[1, 2], [3], []],
            "chosen_ids": [[4], [5, 6], [7]],
            "weight": [1.0, 1.0, 0.5],
            "source": list("abc"),
        }
    )
    others = Dataset.from_dict(
        {
            "prompt_ids": [[3], [1], [1, 2], [1, 2]],
            "chosen_ids": [[5, 6], [2, 4], [4], [4]],  # the second has the ids of (1, 2), (4), cut elsewhere
            "weight": [0.1, 1.0, 1.0, 1.0],
            "source": list("zzzz"),
        }
    )
    assert trained_on(rows, others) == 2
    assert trained_on(others, rows) == 3
    assert trained_on(rows.select([2]), others) == 0


def test_the_answers_of_a_ranking_count_with_where_they_end():
    rows = Dataset.from_dict({"prompt_ids": [[1]] * 3, "completions_ids": [[[1, 2], [3]], [[1], [2, 3]], [[1, 2, 3]]]})
    for number in range(3):
        assert trained_on(rows.select([number]), rows.select([n for n in range(3) if n != number])) == 0
    assert trained_on(rows.select([1, 2]), rows) == 2

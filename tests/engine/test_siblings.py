"""Completions of one prompt stay together as far as the budget lets them."""

import pytest

from easyrlhf.engine.micro_batches import Passes, group_by_prompt, siblings

A, B = [5, 6, 7], [8]


def test_siblings_by_hand():
    # A has rows 0, 2, 3 of 4, 2, 5 tokens; behind its 3 tokens 12 leave room for 9: rows 0 and 2, then row 3
    assert siblings([A, B, A, A, B], [4, 1, 2, 5, 20], 12) == [[0, 2], [3], [1], [4]]


@pytest.mark.parametrize("budget", [1, 10, 30, 1000])
@pytest.mark.parametrize("share", ["on", "off"])
def test_every_row_goes_through_once(budget, share):
    lengths = [4, 1, 2, 5, 20, 3]
    found = Passes(budget, share).over([A, B, A, A, B, [9]], lengths)
    assert sorted(row for group, _ in found for row in group) == list(range(6))
    assert all(counts for _, counts in found)


def test_rows_of_one_prompt_follow_one_another_and_are_one_family():
    ((group, _),) = Passes(1000, "on").over([A, B, A], [2, 2, 2])
    prompts, completions = [[A, B, A][row] for row in group], [[[1, 2], [3, 4], [5, 6]][row] for row in group]
    assert sorted(group_by_prompt(prompts, completions)) == [(A, [[1, 2], [5, 6]]), (B, [[3, 4]])]


def test_without_sharing_long_rows_are_apart_from_short_ones():
    found = Passes(1000, "off").over([B, B, B], [200, 2, 2])
    assert [group for group, _ in found] == [[0], [1, 2]]  # together they would be 600 padded tokens

"""Rows dealt out to processes: each counts once, and all have as many passes."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easyrlhf.engine import micro_batches, processes


def passes_of_all(monkeypatch, lengths: list[int], budget: int, size: int) -> list[list[micro_batches.MicroBatch]]:
    """What every one of so many processes would compute."""
    found = []
    for rank in range(size):
        with monkeypatch.context() as patch:
            patch.setattr(processes, "rank", lambda rank=rank: rank)
            patch.setattr(processes, "size", lambda: size)
            found.append(micro_batches.micro_batches(lengths, budget))
    return found


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40), budget=st.integers(1, 100), size=st.integers(1, 5)
)
def test_every_row_counts_once_and_nobody_waits(lengths, budget, size):
    with pytest.MonkeyPatch.context() as monkeypatch:
        everybody = passes_of_all(monkeypatch, lengths, budget, size)
    counted = Counter(row for own in everybody for group, counts in own if counts for row in group)
    assert counted == Counter(range(len(lengths)))
    assert len({len(own) for own in everybody}) == 1
    for own in everybody:
        for group, _ in own:
            assert group
            assert len(group) * max(lengths[row] for row in group) <= budget or len(group) == 1


def test_who_has_nothing_to_do_repeats_the_shortest_row(monkeypatch):
    everybody = passes_of_all(monkeypatch, [9, 2, 5], 100, 4)
    assert everybody == [[([0], True)], [([2], True)], [([1], True)], [([1], False)]]


def test_shares_are_alike_in_tokens():
    # there and back: 9 8 | 7 6 | 5 4 gives 9 + 6 + 5 and 8 + 7 + 4
    assert micro_batches.dealt([9, 8, 7, 6, 5, 4], 2) == [[0, 3, 4], [1, 2, 5]]


def test_consecutive_slices_hold_every_row_once(monkeypatch):
    for size in (1, 2, 3, 7):
        rows = []
        for rank in range(size):
            with monkeypatch.context() as patch:
                patch.setattr(processes, "rank", lambda rank=rank: rank)
                patch.setattr(processes, "size", lambda size=size: size)
                rows += range(5)[micro_batches.slice_of(5)]
        assert rows == list(range(5))


def test_who_shares_rows_has_the_same_passes_with_room_for_all_and_an_equal_part_of_their_weight(monkeypatch):
    monkeypatch.setattr(processes, "sharers", lambda: 2)
    first, second, third, fourth = passes_of_all(monkeypatch, [9, 2, 5, 8, 7, 3], budget=8, size=4)
    # there and back: 9 5 3 | 8 7 2; two have room for 16 tokens, padded ones among them
    assert first == second == [([0], 0.5), ([2, 5], 0.5)]
    assert third == fourth == [([3, 4], 0.5), ([1], 0.5)]
    monkeypatch.setattr(processes, "size", lambda: 2)
    monkeypatch.setattr(processes, "rank", lambda: 1)
    assert micro_batches.Passes(4, "on").over([[1, 2], [1, 2], [3, 4]], [3, 3, 2]) == [([0, 1], 0.5), ([2], 0.5)]

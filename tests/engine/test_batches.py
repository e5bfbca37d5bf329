"""Batches: every row once, within the budget, in an order that a seed fixes."""

from itertools import chain, product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from easyrlhf.data.batches import epoch_order, join, optimiser_batches, pad_right, within_budget


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), max_size=40), budget=st.integers(1, 100))
def test_micro_batches_hold_every_row_once_within_the_budget(lengths, budget):
    groups = within_budget(lengths, budget)
    assert sorted(chain(*groups)) == list(range(len(lengths)))
    for group in groups:
        padded = len(group) * max(lengths[i] for i in group)
        assert padded <= budget or len(group) == 1


def test_micro_batches_by_hand():
    # longest first: 9 alone (2 · 9 > 12), then 4 4 4 fill 12, then 2 2 1
    assert within_budget([4, 2, 9, 4, 1, 4, 2], 12) == [[2], [0, 3, 5], [1, 6, 4]]


def test_padding_is_avoided_where_it_costs_more_than_another_pass():
    # in one group 5 · 100 = 500 padded tokens; in two 2 · 100 + 3 · 20 = 260 and a pass of 64 more
    assert within_budget([100, 20, 100, 20, 20], 1000) == [[0, 2], [1, 3, 4]]
    # in one group 3 · 40 = 120; in two 2 · 40 + 20 = 100 and 64
    assert within_budget([40, 20, 40], 1000) == [[0, 2, 1]]


@pytest.mark.parametrize("seed", range(5))
def test_no_other_way_to_cut_the_sorted_rows_costs_less(seed):
    lengths, budget = np.random.default_rng(seed).integers(1, 150, 9).tolist(), 400

    def cost(groups: list[list[int]]) -> int:
        return sum(len(group) * max(lengths[row] for row in group) + 64 for group in groups)

    order, ways = sorted(range(9), key=lambda row: -lengths[row]), []
    for cuts in product([False, True], repeat=8):
        groups = [[order[0]]]
        for row, cut in zip(order[1:], cuts, strict=True):
            groups = [*groups, [row]] if cut else [*groups[:-1], [*groups[-1], row]]
        if all(len(group) * lengths[group[0]] <= budget or len(group) == 1 for group in groups):
            ways.append(cost(groups))
    assert cost(within_budget(lengths, budget)) == min(ways)


def test_a_row_longer_than_the_budget_goes_alone():
    assert within_budget([50, 3, 3], 10) == [[0], [1, 2]]


@pytest.mark.parametrize("count, size", [(10, 3), (9, 3), (2, 5), (1, 1)])
def test_optimiser_batches_cover_every_row_once_an_epoch(count, size):
    batches = [list(batch) for batch in optimiser_batches(count, size, seed=5, epochs=3)]
    each = -(-count // size)
    assert len(batches) == 3 * each
    for epoch in range(3):
        part = batches[epoch * each : (epoch + 1) * each]
        assert sorted(chain(*part)) == list(range(count))
        assert [len(batch) for batch in part[:-1]] == [size] * (each - 1)
        assert len(part[-1]) == count - size * (each - 1)


def test_orders_are_fixed_by_the_seed_and_differ_between_epochs_and_seeds():
    orders = {(seed, epoch): tuple(epoch_order(50, seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}
    assert len(set(orders.values())) == 4
    assert all(tuple(epoch_order(50, *key)) == order for key, order in orders.items())
    assert tuple(range(50)) not in orders.values()


def test_pad_right_by_hand():
    assert pad_right([[1, 2, 3], [4], []], 9).tolist() == [[1, 2, 3], [4, 9, 9], [9, 9, 9]]


def test_join_by_hand():
    input_ids, mask = join([[1, 2], [3]], [[4], [5, 6, 7]], pad_id=0)
    assert input_ids.tolist() == [[1, 2, 4, 0], [3, 5, 6, 7]]
    assert mask.tolist() == [[0, 0, 1, 0], [0, 1, 1, 1]]
    assert input_ids.dtype == torch.long

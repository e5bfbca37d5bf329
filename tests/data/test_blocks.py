"""Blocks of texts: where they begin, what is said there, and in what order they come."""

from itertools import chain

import pytest
from datasets import Dataset

from easyrlhf.data.blocks import Blocks, Stride

LENGTHS = [14, 5, 9, 21]
TEXTS = Dataset.from_list(
    [{"input_ids": list(range(3, 3 + n)), "loss_mask": [1] * n, "length": n} for n in LENGTHS],
)


@pytest.mark.parametrize(
    "length, blocks",
    [(13, 0), (14, 1), (17, 1), (18, 2), (40, 7)],  # floor((L - 6 - 8) / 4) + 1
)
def test_blocks_begin_at_every_stride_as_long_as_the_text_goes_on_far_enough(length, blocks):
    assert Stride(context=8, stride=4, tokens=6, longest=100).blocks(length) == blocks


def test_no_block_has_a_longer_text_before_it_than_a_prompt_may_be():
    assert [Stride(8, 4, 6, longest).blocks(40) for longest in (7, 8, 11, 12)] == [0, 1, 1, 2]


@pytest.fixture
def blocks(chatml_renderer) -> Blocks:
    """Of texts of 14, 9 and 21 tokens: 4, 2 and 6 blocks."""
    return Blocks(TEXTS, [0, 2, 3], Stride(context=4, stride=2, tokens=3, longest=15), chatml_renderer)


def test_a_block_is_the_text_before_it_and_what_the_text_says_there(blocks):
    assert len(blocks) == 4 + 2 + 6
    rows = list(blocks)
    assert [row["number"] for row in rows] == list(range(12))
    assert [(row["prompt_ids"], row["answer_ids"]) for row in rows[:5]] == [
        ([3, 4, 5, 6], [7, 8, 9]),
        ([3, 4, 5, 6, 7, 8], [9, 10, 11]),
        ([3, 4, 5, 6, 7, 8, 9, 10], [11, 12, 13]),
        ([3, 4, 5, 6, 7, 8, 9, 10, 11, 12], [13, 14, 15]),
        ([3, 4, 5, 6], [7, 8, 9]),
    ]
    assert (rows[11]["prompt_ids"], rows[11]["answer_ids"]) == (list(range(3, 17)), [17, 18, 19])
    assert rows[1]["length"] == 6
    assert [row["number"] for row in blocks.select(range(3, 6))] == [3, 4, 5]


def test_epochs_have_their_own_order_of_texts_and_blocks_of_a_text_stay_together(blocks):
    texts = [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9, 10, 11]]
    orders = []
    for epoch in range(8):
        order = blocks.endless_order(7, range(12 * epoch, 12 * epoch + 12))
        firsts = sorted(texts, key=lambda own: order.index(own[0]))
        assert order == list(chain.from_iterable(firsts))
        orders.append(order)
    assert len(set(map(tuple, orders))) > 2
    whole = list(chain.from_iterable(orders))
    assert [blocks.endless_order(7, range(at, at + 5)) for at in (0, 9, 21)] == [
        whole[at : at + 5] for at in (0, 9, 21)
    ]

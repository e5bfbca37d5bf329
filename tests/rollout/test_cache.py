"""The cache against plain lists: which numbers lie in which slot."""

import pytest
import torch
from transformers import DynamicCache

from easyrlhf.rollout import slot_cache
from easyrlhf.rollout.slot_cache import SlotCache

LAYERS, HEADS, SIZE = 2, 3, 2


def states(numbers: list[list[int]], layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys that hold these numbers, and values that hold ten times them; other numbers in every layer and head."""
    keys = torch.tensor(numbers, dtype=torch.float32)[:, None, :, None].expand(-1, HEADS, -1, SIZE)
    keys = keys + 1000 * layer + 100 * torch.arange(HEADS)[:, None, None]
    return keys, 10 * keys


def filled(numbers: list[list[int]]) -> DynamicCache:
    """A cache of transformers that holds rows of these numbers."""
    found = DynamicCache()
    for layer in range(LAYERS):
        found.update(*states(numbers, layer), layer)
    return found


def step(slots: SlotCache, numbers: list[int], expected: list[list[int | None]]) -> None:
    """Add a column of numbers, and see that attention is given the expected rows; None stands for anything finite."""
    for layer in range(LAYERS):
        found = slots.update(*states([[number] for number in numbers], layer), layer)
        for tensor, wanted in zip(found, states([[x or 0 for x in row] for row in expected], layer), strict=True):
            counted = torch.tensor([[x is not None for x in row] for row in expected])
            assert tensor.shape == wanted.shape
            assert torch.equal(tensor.transpose(1, 2)[counted], wanted.transpose(1, 2)[counted])
            assert tensor.isfinite().all()


@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_rows_join_end_in_one_column_move_and_leave(monkeypatch, chunk):
    monkeypatch.setattr(slot_cache, "CHUNK", chunk)
    source = filled([[1, 2, 3], [4, 5, 99], [6, 98, 97]])  # 9x: behind the prompts
    slots = SlotCache(3)
    slots.put(0, [(source, 0, 3), (source, 1, 2), (source, 1, 2)])
    assert slots.get_seq_length() == 3
    step(slots, [11, 12, 13], [[1, 2, 3, 11], [None, 4, 5, 12], [None, 4, 5, 13]])
    slots.move(torch.tensor([2]), torch.tensor([0]))  # the first has ended
    step(slots, [21, 22], [[None, 4, 5, 13, 21], [None, 4, 5, 12, 22]])
    slots.put(2, [(source, 2, 1), (DynamicCache(), 0, 0)])
    step(
        slots,
        [31, 32, 33, 34],
        [
            [None, 4, 5, 13, 21, 31],
            [None, 4, 5, 12, 22, 32],
            [None, None, None, None, 6, 33],
            [None, None, None, None, None, 34],
        ],
    )
    slots.drop_columns(1)
    assert slots.get_seq_length() == 5
    step(slots, [41], [[4, 5, 13, 21, 31, 41]])


def test_rows_without_a_prefix_need_no_other_cache():
    slots = SlotCache(0)
    slots.put(0, [(DynamicCache(), 0, 0)] * 2)
    assert slots.get_seq_length() == 0
    step(slots, [1, 2], [[1], [2]])
    step(slots, [3, 4], [[1, 3], [2, 4]])


def test_a_step_writes_in_place(monkeypatch):
    slots = SlotCache(0)
    step(slots, [1, 2], [[1], [2]])
    held = slots.layers[0].keys
    for number in range(2, slot_cache.CHUNK):
        slots.update(*states([[number]] * 2, 0), 0)
        assert slots.layers[0].keys is held


def test_what_has_left_is_not_copied_when_the_cache_grows(monkeypatch):
    monkeypatch.setattr(slot_cache, "CHUNK", 1)
    slots = SlotCache(0)
    step(slots, [1, 2, 3, 4], [[1], [2], [3], [4]])
    step(slots, [5], [[1, 5]])
    step(slots, [6], [[1, 5, 6]])
    assert len(slots.layers[0].keys) == 1

"""From token rows to batches: order of an epoch, micro-batches under a token budget, right-padding."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

PASS = 64  # tokens that a forward and backward pass costs besides those in it


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Random order of `count` rows, the same for the same seed and epoch."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def endless_order(count: int, seed: int, numbers: range) -> list[int]:
    """Row of each number in the endless sequence of epochs over `count` rows, each epoch in its own order."""
    orders = {epoch: epoch_order(count, seed, epoch) for epoch in {number // count for number in numbers}}
    return [int(orders[number // count][number % count]) for number in numbers]


def optimiser_batches(count: int, batch_size: int, seed: int, epochs: int) -> Iterator[np.ndarray]:
    """Row numbers of every optimiser batch: each epoch in its own order, its last batch as large as what is left."""
    for epoch in range(epochs):
        order = epoch_order(count, seed, epoch)
        for start in range(0, count, batch_size):
            yield order[start : start + batch_size]


def within_budget(lengths: list[int], budget: int) -> list[list[int]]:
    """Group rows of similar length so that each group, padded to its longest row, stays within the budget.

    A budget with room to spare is not filled where that would only add padding.

    lengths  tokens of each row
    budget   tokens of one forward pass; a longer row goes alone
    returns  groups of indices into `lengths`; every index exactly once
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    # Of all ways to cut the sorted rows into groups: the fewest padded tokens, each pass costing some more.
    costs, begins = [0], []
    for end in range(1, len(order) + 1):
        best, begin = costs[end - 1] + lengths[order[end - 1]], end - 1
        for start in range(end - 2, -1, -1):
            padded = (end - start) * lengths[order[start]]
            if padded > budget:
                break
            if costs[start] + padded < best:
                best, begin = costs[start] + padded, start
        costs.append(best + PASS)
        begins.append(begin)
    groups, end = [], len(order)
    while end:
        groups.append(order[begins[end - 1] : end])
        end = begins[end - 1]
    return groups[::-1]


def pad_right(rows: list[list[int]], value: int = 0) -> Tensor:
    """Rows of ids as one tensor, filled up with `value` on the right.  [B, S]"""
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def join(prompts: list[list[int]], completions: list[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Sequences prompt + completion, right-padded, and the mask of their completion tokens.

    returns input_ids [B, S], completion_mask [B, S]
    """
    pairs = list(zip(prompts, completions, strict=True))
    input_ids = pad_right([prompt + completion for prompt, completion in pairs], pad_id)
    mask = pad_right([[0] * len(prompt) + [1] * len(completion) for prompt, completion in pairs])
    return input_ids, mask

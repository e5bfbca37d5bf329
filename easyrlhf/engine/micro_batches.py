"""Which process computes what: rows dealt out by length, and as many forward passes for each."""

from typing import Any

from easyrlhf.data.batches import micro_batches
from easyrlhf.engine import processes

Pass = tuple[Any, bool]  # a micro-batch, and whether it counts


def dealt(lengths: list[int], hands: int) -> list[list[int]]:
    """Indices into `lengths` for each of so many processes: alike in number and in tokens."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    shares: list[list[int]] = [[] for _ in range(hands)]
    for start in range(0, len(order), hands):
        one_each = order[start : start + hands]
        turn = shares if (start // hands) % 2 == 0 else shares[::-1]  # there and back: nobody always gets the longest
        for share, index in zip(turn, one_each, strict=False):
            share.append(index)
    return shares


def passes(lengths: list[int], budget: int) -> list[Pass]:
    """The micro-batches of this process: groups of indices into `lengths`, each with whether it counts.

    Every index counts in exactly one process. All processes get as many micro-batches, since weights that are spread
    over them are put together for each: who has fewer repeats a row, and that does not count.

    lengths  tokens of each row
    budget   tokens of one forward pass; a longer row goes alone
    """
    groups = [
        [[share[i] for i in group] for group in micro_batches([lengths[i] for i in share], budget)]
        for share in dealt(lengths, processes.size())
    ]
    mine, most = groups[processes.rank()], max(map(len, groups))
    shortest = [min(range(len(lengths)), key=lengths.__getitem__)] if lengths else []
    return [(group, True) for group in mine] + [(shortest, False)] * (most - len(mine))


def slice_of(count: int, hands: int | None = None, hand: int | None = None) -> slice:
    """The consecutive rows, of so many, that one of so many hands takes: by default this process, of all."""
    hands = processes.size() if hands is None else hands
    hand = processes.rank() if hand is None else hand
    return slice(count * hand // hands, count * (hand + 1) // hands)

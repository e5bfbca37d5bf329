"""Which process computes what: rows dealt out by length, and as many forward passes for each."""

from dataclasses import dataclass
from itertools import groupby
from typing import Any

from easyrlhf.data.batches import within_budget
from easyrlhf.engine import processes
from easyrlhf.models.prefix_sharing import TREES, PromptGroup
from easyrlhf.models.prefix_tree import relatives

MicroBatch = tuple[Any, float]  # a micro-batch, and what its numbers weigh in this process


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


def micro_batches(lengths: list[int], budget: int) -> list[MicroBatch]:
    """The micro-batches of this process: groups of indices into `lengths`, each with what its numbers weigh.

    Every index weighs 1 over all processes: in one of them, or in equal parts in those that share its micro-batch. All
    processes get as many micro-batches, since weights that are spread over them are put together for each: who has
    fewer repeats a row, and that weighs 0.

    lengths  tokens of each row
    budget   tokens of one forward pass on each process; a longer row goes alone
    """
    sharers = processes.sharers()
    groups = [
        [[share[i] for i in group] for group in within_budget([lengths[i] for i in share], sharers * budget)]
        for share in dealt(lengths, processes.size() // sharers)
    ]
    mine, most = groups[processes.rank() // sharers], max(map(len, groups))
    shortest = [min(range(len(lengths)), key=lengths.__getitem__)] if lengths else []
    return [(group, 1 / sharers) for group in mine] + [(shortest, 0.0)] * (most - len(mine))


def slice_of(count: int, hands: int | None = None, hand: int | None = None) -> slice:
    """The consecutive rows, of so many, that one of so many hands takes: by default this process, of all."""
    hands = processes.size() if hands is None else hands
    hand = processes.rank() if hand is None else hand
    return slice(count * hand // hands, count * (hand + 1) // hands)


@dataclass(frozen=True)
class Passes:
    """How completions go through a model: which of them together.

    budget  tokens of one forward pass on each process
    share   whether a prompt is computed once for its completions, and how, as in completion_states
    """

    budget: int
    share: str = "off"

    def over(self, prompts: list[list[int]], lengths: list[int]) -> list[MicroBatch]:
        """The micro-batches of this process, completions of one prompt next to one another where they may share it.

        prompts  ids of each row's prompt
        lengths  tokens of each row's completion
        """
        alone = [[row] for row in range(len(prompts))]
        related = relatives if self.share == TREES else siblings
        room = processes.sharers() * self.budget
        households = alone if self.share == "off" else related(prompts, lengths, room)
        tokens = [len(prompts[own[0]]) + sum(lengths[row] for row in own) for own in households]
        return [
            ([row for one in group for row in households[one]], weight)
            for group, weight in micro_batches(tokens, self.budget)
        ]


def siblings(prompts: list[list[int]], lengths: list[int], budget: int) -> list[list[int]]:
    """Rows with the same prompt, as many together as the budget allows; every row exactly once."""
    found: list[list[int]] = []
    order = sorted(range(len(prompts)), key=lambda row: (prompts[row], row))
    for prompt, rows in groupby(order, key=prompts.__getitem__):
        room = 0
        for row in rows:
            if found and room >= lengths[row]:
                found[-1].append(row)
            else:
                found.append([row])
                room = budget - len(prompt)
            room -= lengths[row]
    return found


def group_by_prompt(prompts: list[list[int]], completions: list[list[int]]) -> list[PromptGroup]:
    """Prompts with their completions; equal prompts that follow one another are one."""
    pairs = zip(prompts, completions, strict=True)
    return [(prompt, [ids for _, ids in own]) for prompt, own in groupby(pairs, key=lambda pair: pair[0])]

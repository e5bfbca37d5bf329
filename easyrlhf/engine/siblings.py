"""Completions of one prompt, kept together so that models may compute the prompt once for them."""

from itertools import groupby

from easyrlhf.engine.micro_batches import Pass, passes
from easyrlhf.models.prefix_sharing import Family


def sibling_passes(prompts: list[list[int]], lengths: list[int], budget: int, share: str) -> list[Pass]:
    """The micro-batches of this process, as passes gives them; rows of one prompt follow one another where they share.

    prompts  ids of each row's prompt
    lengths  tokens of each row's completion
    budget   tokens of one forward pass
    share    "off" takes each row by itself
    """
    rows = range(len(prompts))
    households = [[row] for row in rows] if share == "off" else siblings(prompts, lengths, budget)
    tokens = [len(prompts[own[0]]) + sum(lengths[row] for row in own) for own in households]
    return [([row for one in group for row in households[one]], counts) for group, counts in passes(tokens, budget)]


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


def families_of(prompts: list[list[int]], completions: list[list[int]]) -> list[Family]:
    """Prompts with their completions; equal prompts that follow one another are one."""
    pairs = zip(prompts, completions, strict=True)
    return [(prompt, [ids for _, ids in own]) for prompt, own in groupby(pairs, key=lambda pair: pair[0])]

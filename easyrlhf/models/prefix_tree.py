"""Completions of many beginnings of one text in one forward pass that computes the text once.

A row of the pass holds a text and, one behind the other, completions of its beginnings. Each token has the position
that it would have alone, and a mask shows it what it would see alone: the beginning of the text that it goes on from,
and its own completion as far as itself.
"""

from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from easyrlhf.data.batches import pad_right
from easyrlhf.models.parts import plain_lm


@dataclass(frozen=True)
class PrefixTrees:
    """B texts with N completions of their beginnings.

    ids        [B, S]  right-padded
    positions  [B, S]
    starts     [B, S]  place in the row from which on a token sees all before it: where its text or completion begins
    seen       [B, S]  tokens of the text that it sees besides
    before     [N]     place of each prompt's last token, which predicts a first one, with rows one behind the other
    firsts     [N]     the same of each completion's first token
    """

    ids: Tensor
    positions: Tensor
    starts: Tensor
    seen: Tensor
    before: list[int]
    firsts: list[int]

    @property
    def mask(self) -> Tensor:
        """True where a token looks at another.  [B, 1, S, S]"""
        places = torch.arange(self.ids.shape[1], device=self.ids.device)
        looked_at = (places >= self.starts[..., None]) | (places < self.seen[..., None])
        return (looked_at & (places <= places[:, None]))[:, None]

    def inputs(self, lm: nn.Module) -> dict[str, Any]:
        """What a model's backbone is called with."""
        mask, plain = self.mask, plain_lm(lm)
        if plain.config._attn_implementation == "eager":  # it adds the mask to its scores
            lowest = torch.finfo(plain.dtype).min
            mask = torch.zeros_like(mask, dtype=plain.dtype).masked_fill(~mask, lowest)
        return {"input_ids": self.ids, "position_ids": self.positions, "attention_mask": mask, "use_cache": False}


def plant_trees(prompts: list[list[int]], completions: list[list[int]], device: torch.device) -> PrefixTrees:
    """The trees of completions whose prompts are beginnings of one another; those of others stand apart."""
    trees = relatives(prompts, [len(ids) for ids in completions])
    texts, owners = [prompts[own[0]] for own in trees], {row: tree for tree, own in enumerate(trees) for row in own}
    ids, positions = [list(text) for text in texts], [list(range(len(text))) for text in texts]
    starts, seen = ([[0] * len(text) for text in texts] for _ in range(2))
    branches = []
    for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        row = owners[number]
        start, tokens = len(ids[row]), len(completion)
        branches.append((row, len(prompt) - 1, start))
        ids[row] += completion
        positions[row] += range(len(prompt), len(prompt) + tokens)
        starts[row] += [start] * tokens
        seen[row] += [len(prompt)] * tokens
    padded = [pad_right(rows).to(device) for rows in (ids, positions, starts, seen)]
    width = padded[0].shape[1]
    before = [row * width + last for row, last, _ in branches]
    return PrefixTrees(*padded, before, [row * width + start for row, _, start in branches])


def relatives(prompts: list[list[int]], lengths: list[int], budget: float = inf) -> list[list[int]]:
    """Rows whose prompts are beginnings of the first one's, as many together as the budget allows; every row once.

    lengths  tokens of each row's completion
    budget   tokens of a prompt and of all completions of its beginnings
    """
    found: list[list[int]] = []
    text, room = [], 0.0
    # Backwards in alphabetical order the beginnings of a text follow it at once.
    for row in sorted(range(len(prompts)), key=prompts.__getitem__, reverse=True):
        if found and room >= lengths[row] and text[: len(prompts[row])] == prompts[row]:
            found[-1].append(row)
        else:
            found.append([row])
            text, room = prompts[row], budget - len(prompts[row])
        room -= lengths[row]
    return found

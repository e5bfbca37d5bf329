"""Stride mode: plain texts as prompts, each from many places on, with what the text says there as the answer."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from datasets import Dataset

from easyrlhf.data.batches import epoch_order
from easyrlhf.data.render import Renderer


def answered_row(renderer: Renderer, prompt: list[int], answer: list[int], number: int) -> dict[str, Any]:
    """A prompt row with `answer_ids`, and `number`, its own."""
    return {
        "prompt_ids": prompt,
        "prompt": json.dumps(renderer.decode(prompt)),
        "columns": json.dumps({"demonstration": renderer.decode(answer)}),
        "length": len(prompt),
        "answer_ids": answer,
        "number": number,
    }


@dataclass(frozen=True)
class Stride:
    """Where blocks begin in a text: a_k = context + k · stride, as long as so many tokens follow.

    longest  tokens before a block, at most
    """

    context: int
    stride: int
    tokens: int
    longest: int

    def blocks(self, length: int) -> int:
        """Blocks of a text of so many tokens."""
        return max(0, (min(length - self.tokens, self.longest) - self.context) // self.stride + 1)


@dataclass(frozen=True)
class Blocks:
    """The blocks of texts, text after text, as prompt rows with answers.

    rows     demonstration rows, as load_tokens gives them
    numbers  those that are meant; each has a block at least
    """

    rows: Dataset
    numbers: list[int]
    stride: Stride
    renderer: Renderer

    @cached_property
    def counts(self) -> np.ndarray:
        """Blocks of each text."""
        lengths = np.asarray(self.rows["length"])[self.numbers]
        return np.array([self.stride.blocks(int(length)) for length in lengths])

    @cached_property
    def ends(self) -> np.ndarray:
        """Blocks as far as the end of each text."""
        return self.counts.cumsum()

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[place] for place in range(len(self)))

    def __getitem__(self, place: int) -> dict[str, Any]:
        text = int(self.ends.searchsorted(place, side="right"))
        block = place - int(self.ends[text] - self.counts[text])
        ids = self.rows[self.numbers[text]]["input_ids"]
        start = self.stride.context + block * self.stride.stride
        return answered_row(self.renderer, ids[:start], ids[start : start + self.stride.tokens], place)

    def select(self, places: range) -> list[dict[str, Any]]:
        """Some of them."""
        return [self[place] for place in places]

    def endless_order(self, seed: int, numbers: range) -> list[int]:
        """Block of each number in the endless sequence of epochs: texts in an order of each, blocks of one together.

        A text is then read once for all of its blocks in a rollout.
        """
        found: list[int] = []
        for epoch in sorted({number // len(self) for number in numbers}):
            texts = epoch_order(len(self.numbers), seed, epoch)
            ends = self.counts[texts].cumsum()
            wanted = np.array([number % len(self) for number in numbers if number // len(self) == epoch])
            at = ends.searchsorted(wanted, side="right")
            found += (self.ends[texts[at]] - (ends[at] - wanted)).tolist()
        return found

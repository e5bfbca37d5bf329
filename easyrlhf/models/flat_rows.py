"""Where tokens lie in one flat row: lists of places, made of lengths and brought to the device without waiting for it.

A loop over tokens in Python takes milliseconds a pass, and a copy that the host waits for drains a GPU's queue: both
leave a GPU idle.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; where that is a GPU, without waiting for what it is at."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def on_device(device: torch.device, *arrays: np.ndarray) -> list[Tensor]:
    """The whole numbers of these arrays as tensors, in one transfer that the host does not wait for.  int64"""
    whole = sent(torch.as_tensor(np.concatenate([array.ravel() for array in arrays])), device)
    parts = whole.split([array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def flattened(rows: list[list[int]]) -> np.ndarray:
    """Rows one behind the other.  [L]"""
    return np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=sum(map(len, rows)))


def firsts(lengths: np.ndarray) -> np.ndarray:
    """The place of each row's first token, where rows of these lengths lie one behind the other.  [B]"""
    return lengths.cumsum() - lengths


def ranges(starts: np.ndarray | int, lengths: np.ndarray) -> np.ndarray:
    """From each start on as many whole numbers as its length says, range behind range.  [sum of the lengths]"""
    return np.repeat(starts - firsts(lengths), lengths) + np.arange(lengths.sum())


@dataclass(frozen=True)
class PaddedRows:
    """Rows of a flat row, side by side.

    places  [B, S]  in the flat row, padded with any
    kept    [n]     which of the B · S places are a row's own
    """

    places: Tensor
    kept: Tensor

    @classmethod
    def of(cls, lengths: np.ndarray, start: int, device: torch.device) -> "PaddedRows":
        """Rows of these lengths, one behind the other from `start` on."""
        steps = np.arange(lengths.max())
        own = steps < lengths[:, None]
        places = np.where(own, (start + firsts(lengths))[:, None] + steps, start)
        return cls(*on_device(device, places, np.flatnonzero(own)))


@dataclass(frozen=True)
class KeyRanges:
    """What completions look at, for the kernel for rows of various lengths.

    places   [m]      in the flat row: those of the prompt and the own ones, completion by completion
    ends     [N + 1]  int32: 0, and where each completion's tokens end
    seen     [N + 1]  int32: 0, and where each completion's `places` end
    longest  tokens of the longest completion, and most places of one
    """

    places: Tensor
    ends: Tensor
    seen: Tensor
    longest: tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """Where the tokens of B prompts and their N completions lie in one flat row: prompts first, then completions.

    Rows that share nothing are prompts without completions.

    prompts      lengths of the prompts                   [B]
    completions  lengths of the completions               [N]
    parents      number of the prompt of each completion  [N]
    device       of the row
    """

    prompts: np.ndarray
    completions: np.ndarray
    parents: np.ndarray
    device: torch.device

    @classmethod
    def of_rows(cls, lengths: np.ndarray, device: torch.device) -> "Layout":
        """Rows that share nothing."""
        return cls(lengths, lengths[:0], lengths[:0], device)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts: where completions begin."""
        return int(self.prompts.sum())

    @cached_property
    def prompt_rows(self) -> PaddedRows:
        """The prompts side by side."""
        return PaddedRows.of(self.prompts, 0, self.device)

    @cached_property
    def prompt_ends(self) -> Tensor:
        """0, and where each prompt ends in the flat row.  [B + 1] int32"""
        return on_device(self.device, ends_of(self.prompts))[0].int()

    @cached_property
    def completion_rows(self) -> PaddedRows:
        """The completions side by side."""
        return PaddedRows.of(self.completions, self.prompt_tokens, self.device)

    @cached_property
    def parent_rows(self) -> Tensor:
        """The places of each completion's prompt, padded with any.  [N, P]"""
        return self.prompt_rows.places[on_device(self.device, self.parents)[0]]

    @cached_property
    def completion_mask(self) -> Tensor:
        """Which keys a completion token looks at: its prompt's tokens, then those of its own not behind it.

        [N, 1, C, P + C]
        """
        (lengths,) = on_device(self.device, self.prompts[self.parents])
        counted = torch.arange(int(self.prompts.max()), device=self.device) < lengths[:, None]
        width = int(self.completions.max())
        own = torch.ones(width, width, dtype=torch.bool, device=self.device).tril()
        shape = len(self.completions), width, -1
        return torch.cat([counted[:, None].expand(shape), own.expand(shape)], dim=-1)[:, None]

    @cached_property
    def completion_keys(self) -> KeyRanges:
        """What completions look at: their prompts, then their own tokens."""
        seen = self.prompts[self.parents] + self.completions
        starts = firsts(self.prompts)[self.parents], self.prompt_tokens + firsts(self.completions)
        parts = np.stack(starts, 1).ravel(), np.stack([self.prompts[self.parents], self.completions], 1).ravel()
        found = on_device(self.device, ranges(*parts), ends_of(self.completions), ends_of(seen))
        return KeyRanges(found[0], found[1].int(), found[2].int(), (int(self.completions.max()), int(seen.max())))


def ends_of(lengths: np.ndarray) -> np.ndarray:
    """0, and where rows of these lengths end, one behind the other.  [B + 1]"""
    return np.concatenate([[0], lengths.cumsum()])

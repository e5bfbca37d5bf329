"""Draws that are begun before they are asked for, and how a checkpoint holds them."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import nan
from typing import Any, NamedTuple

import torch
from torch import Tensor

from easyrlhf.data.batches import pad_right

Key = tuple[int, ...]


class Completion(NamedTuple):
    """A completion through the token that ended it, and the log-probabilities its tokens were drawn with."""

    ids: list[int]
    logprobs: list[float | None]  # None: not a number that JSON has


@dataclass
class Draw:
    """Samples that were begun.

    keys    of all of them
    own     this process's part, as it comes
    weights the number of updates before those it is drawn with
    taken   whether it was had; it is kept until an update has followed
    """

    keys: list[Key]
    own: Future
    weights: int
    taken: bool = False


class Draws:
    """The draws that are under way or have come, oldest first.

    at_once  of them that may be under way together; the others wait for their turn
    """

    def __init__(self, at_once: int):
        self.background = ThreadPoolExecutor(at_once, "rollout")
        self.known: dict[Key, Draw] = {}

    def __iter__(self) -> Iterator[Draw]:
        return iter(self.known.values())

    def begin(self, keys: list[Key], job: Callable[[], Any], weights: int) -> None:
        """Let the job of this process's part be done in the background."""
        self.known[keys[0]] = Draw(keys, self.background.submit(job), weights)

    def restore(self, keys: list[Key], own: Any, weights: int) -> None:
        """Have this process's part of a draw that came before the run was stopped."""
        self.known[keys[0]] = Draw(keys, Future(), weights)
        self.known[keys[0]].own.set_result(own)

    def take(self, keys: list[Key]) -> Draw | None:
        """The draw of these keys, if it was begun; it can be had once."""
        draw = self.known.get(keys[0])
        if draw is None or draw.taken or draw.keys != keys:
            return None
        draw.taken = True
        return draw

    def finish(self) -> None:
        """Wait for all that is under way, whatever becomes of it."""
        for draw in self:
            draw.own.exception()

    def forget_taken(self) -> None:
        """Let go of what was had."""
        self.known = {key: draw for key, draw in self.known.items() if not draw.taken}

    def close(self) -> None:
        """Begin nothing any more; what is under way is not waited for."""
        self.background.shutdown(wait=False, cancel_futures=True)


class DrawnAhead(NamedTuple):
    """A draw that has come, of all processes together.

    staleness  updates since its weights
    """

    keys: list[Key]
    completions: list[Completion]
    staleness: int


def packed_draws(drawn: list[DrawnAhead]) -> dict[str, Tensor]:
    """Draws of one size as tensors by name; {} for none."""
    if not drawn:
        return {}
    completions = [completion for draw in drawn for completion in draw.completions]
    logprobs = [[nan if one is None else one for one in completion.logprobs] for completion in completions]
    return {
        "keys": torch.tensor([draw.keys for draw in drawn]),
        "staleness": torch.tensor([draw.staleness for draw in drawn]),
        "ids": pad_right([completion.ids for completion in completions]),
        "lengths": torch.tensor([len(completion.ids) for completion in completions]),
        "logprobs": pad_right(logprobs, 0.0),
    }


def unpacked_draws(kept: dict[str, Tensor]) -> list[DrawnAhead]:
    """The draws that packed has packed."""
    if not kept:
        return []
    rows = zip(kept["ids"].tolist(), kept["logprobs"].tolist(), kept["lengths"].tolist(), strict=True)
    completions = [Completion(ids[:length], logprobs[:length]) for ids, logprobs, length in rows]
    keys, size = kept["keys"].tolist(), kept["keys"].shape[1]
    return [
        DrawnAhead([tuple(key) for key in own], completions[place * size : (place + 1) * size], staleness)
        for place, (own, staleness) in enumerate(zip(keys, kept["staleness"].tolist(), strict=True))
    ]

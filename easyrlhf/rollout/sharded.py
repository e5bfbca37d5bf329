"""Sampling by several processes, each a share of the prompts, with the weights that the engine puts together."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from easyrlhf.engine import processes
from easyrlhf.engine.engine import Engine
from easyrlhf.engine.micro_batches import slice_of
from easyrlhf.models.parts import plain_lm
from easyrlhf.rollout.sampler import Ended, HFSampler, Samples


class EpisodePlayer(Protocol):
    """What plays episodes with a sampler: easyrlhf/episodes/play.py.

    stopping  whether the user has asked the run to stop
    """

    stopping: Callable[[], bool]

    def play(self, sampler: Any, rows: list[dict], keys: list[tuple[int, ...]], at_once: bool = False) -> Samples:
        """An episode for each row; at once: each turn as it is asked for, in place of waves."""


@dataclass(frozen=True)
class ShardedSampler:
    """Samples as `sampler` does, with the weights of the engine's model.

    Weights that are spread over processes are put together once for all prompts, not for each token.
    """

    engine: Engine
    sampler: HFSampler

    def __enter__(self) -> "ShardedSampler":
        return self

    def __exit__(self, *_) -> None:
        """There is nothing to let go of."""

    def updated(self) -> None:
        """The policy has changed: its weights are put together for every rollout anyway."""

    @property
    def pad_id(self) -> int:
        """The padding token."""
        return self.sampler.pad_id

    @property
    def temperature(self) -> float:
        """What logits are divided by."""
        return self.sampler.temperature

    def generate(self, prompts: list[list[int]], keys: list[tuple[int, ...]], ended: Ended | None = None) -> Samples:
        """As HFSampler.generate; every process gets the completions of all prompts.

        ended  is told each completion that this process has sampled, once it is there
        """
        return self.dealt(
            lambda sampler, own: sampler.generate(prompts[own], keys[own], ended=behind(own.start, ended)), len(prompts)
        )

    def play(self, player: EpisodePlayer, rows: list[dict], keys: list[tuple[int, ...]]) -> Samples:
        """As Player.play; every process plays a part of the episodes and gets all. Weights are put together once."""
        return self.dealt(lambda sampler, own: player.play(sampler, rows[own], keys[own]), len(rows))

    def dealt(self, sample: Callable[[HFSampler, slice], Samples], count: int) -> Samples:
        """What all processes sample of so many, each a slice; no process waits for another in between."""
        own = slice_of(count)
        with self.engine.full_weights() as lm:
            sampler = replace(self.sampler, lm=lm)
            if processes.size() == 1:
                return sample(sampler, own)
            parts = processes.gather_results(lambda: on_cpu(sample(sampler, own)) if own.start < own.stop else None)
        return gathered_samples(
            [part for part in parts if part is not None], self.pad_id, plain_lm(self.sampler.lm).device
        )


def behind(start: int, ended: Ended | None) -> Ended | None:
    """Who is told of completions that are numbered from `start` on, by whom counts from 0."""
    return ended and (lambda number, ids, finished: ended(start + number, ids, finished))


def on_cpu(samples: Samples) -> Samples:
    """The samples, to be sent to other processes."""
    columns = {field.name: getattr(samples, field.name) for field in fields(samples)}
    return Samples(**{name: value.cpu() if isinstance(value, Tensor) else value for name, value in columns.items()})


def gathered_samples(parts: list[Samples], pad_id: int, device: torch.device) -> Samples:
    """Samples one behind the other, on a device."""
    width = max(part.completion_ids.shape[1] for part in parts)

    def column(name: str, value: float) -> Tensor:
        tensors = [getattr(part, name) for part in parts]
        return torch.cat([pad(one, (0, width - one.shape[1]), value=value) for one in tensors]).to(device)

    finished = torch.cat([part.finished for part in parts]).to(device)
    columns = column("completion_ids", pad_id), column("completion_mask", 0), column("logprobs", 0)
    if parts[0].episodes is None:
        return Samples(*columns, finished)
    return Samples(*columns, finished, column("action_mask", 0), [one for part in parts for one in part.episodes])

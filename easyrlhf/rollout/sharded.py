"""Sampling by several processes, each a share of the prompts, with the weights that the engine puts together."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from easyrlhf.engine import processes
from easyrlhf.engine.engine import Engine
from easyrlhf.engine.micro_batches import slice_of
from easyrlhf.models.parts import plain_lm
from easyrlhf.rollout.sampler import HFSampler, Samples


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

    def generate(self, prompts: list[list[int]], keys: list[tuple[int, ...]]) -> Samples:
        """As HFSampler.generate; every process gets the completions of all prompts."""
        own = slice_of(len(prompts))
        with self.engine.full_weights() as lm:
            sampler = replace(self.sampler, lm=lm)
            if processes.size() == 1:
                return sampler.generate(prompts, keys)
            parts = processes.gather_results(
                lambda: on_cpu(sampler.generate(prompts[own], keys[own])) if prompts[own] else None
            )
        return gathered_samples(
            [part for part in parts if part is not None], self.pad_id, plain_lm(self.sampler.lm).device
        )


def on_cpu(samples: Samples) -> Samples:
    """The samples, to be sent to other processes."""
    return Samples(*(getattr(samples, field.name).cpu() for field in fields(samples)))


def gathered_samples(parts: list[Samples], pad_id: int, device: torch.device) -> Samples:
    """Samples one behind the other, on a device."""
    width = max(part.completion_ids.shape[1] for part in parts)

    def column(name: str, value: float) -> Tensor:
        tensors = [getattr(part, name) for part in parts]
        return torch.cat([pad(one, (0, width - one.shape[1]), value=value) for one in tensors]).to(device)

    finished = torch.cat([part.finished for part in parts]).to(device)
    columns = column("completion_ids", pad_id), column("completion_mask", 0), column("logprobs", 0)
    return Samples(*columns, finished)

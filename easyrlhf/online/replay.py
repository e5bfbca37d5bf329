"""Groups that taught something, kept to stand in for groups that teach nothing.

A completion of an earlier policy is as good as one of today's once it is weighted by how much likelier it is to that of
today. The weight is of the whole completion, over the probabilities that its tokens were drawn with: then the expected
gradient is the true one, but for where the weight is cut. A weight of each token is another gradient, and so are old
log-probabilities that are computed anew without any weight.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from easyrlhf.data.batches import pad_right
from easyrlhf.engine.faults import named
from easyrlhf.models.parts import evaluating, plain_lm
from easyrlhf.online.collect import score_tokens
from easyrlhf.online.rollout import Rollout, concatenate, unpad
from easyrlhf.online.state import Online
from easyrlhf.rollout.sampler import Samples
from easyrlhf.run.run import Run

KEPT = "replay"  # in a checkpoint
DRAWS = 3  # which draws of a step these are, after the seed and the step


@dataclass(frozen=True)
class KeptGroup:
    """The completions of one prompt.

    number    of the prompt among the run's
    step      that they were sampled for
    ids, logprobs  of each completion: its tokens, and their log-probabilities as they were drawn
    finished, scores  of each completion
    sources   name → raw scores of each
    staleness updates between the weights it was drawn with and its step
    """

    number: int
    step: int
    ids: list[list[int]]
    logprobs: list[list[float]]
    finished: list[bool]
    scores: list[float]
    sources: dict[str, list[float]]
    staleness: int = 0


@dataclass
class ReplayBuffer:
    """The newest groups whose scores differed, oldest first.

    size     groups that are kept
    max_age  steps after which a group is let go
    """

    size: int
    max_age: int
    groups: list[KeptGroup] = field(default_factory=list)

    def add(self, rollout: Rollout, group_size: int, step: int) -> None:
        """Keep the groups of a step's own rollout whose scores differ; the oldest leave for them."""
        ids, lengths = rollout.completions(), rollout.lengths.tolist()
        logprobs = [row[:length] for row, length in zip(rollout.sampler_logprobs.tolist(), lengths, strict=True)]
        for start in range(0, len(rollout), group_size):
            own = slice(start, start + group_size)
            scores = rollout.scores[own]
            if scores.isnan().any() or (scores == scores[0]).all():
                continue
            self.groups.append(
                KeptGroup(
                    number=int(rollout.numbers[start]),
                    step=step,
                    ids=ids[own],
                    logprobs=logprobs[own],
                    finished=rollout.finished[own].tolist(),
                    scores=scores.tolist(),
                    sources={name: raw[own].tolist() for name, raw in rollout.source_scores.items()},
                    staleness=0 if rollout.staleness is None else int(rollout.staleness[start]),
                )
            )
        self.groups = self.groups[-self.size :]

    def choose(self, count: int, seed: int, step: int) -> list[KeptGroup]:
        """At most so many different groups for a step, drawn by the seed and the step alone; old ones are let go."""
        self.groups = [group for group in self.groups if step - group.step <= self.max_age]
        order = np.random.default_rng((seed, DRAWS, step)).permutation(len(self.groups))
        return [self.groups[place] for place in order[:count]]

    def tensors(self) -> dict[str, Tensor]:
        """All of it, for a checkpoint; {} where there is nothing."""
        return dict(packed_groups(self.groups)) if self.groups else {}

    def restore(self, kept: dict[str, Tensor]) -> None:
        """Take back what tensors gave."""
        self.groups = unpacked_groups(kept) if kept else []


@torch.no_grad()
def with_replayed(
    run: Run, online: Online, prompts: Dataset, rollout: Rollout, buffer: ReplayBuffer, kl_coef: float
) -> Rollout:
    """The rollout with kept groups in the places of those whose completions get no advantage, as far as there are any.

    Of a kept group all but its scores and the probabilities that it was drawn with is computed anew.
    """
    config, size = run.config, run.config.num_generations
    idle = (~online.method.groups_that_teach(rollout, config, kl_coef)).nonzero().flatten().tolist()
    chosen = buffer.choose(len(idle), config.seed, run.step)
    if not chosen:
        return rollout
    kept = asked_anew(run, online, prompts, chosen)
    fresh = replace(rollout, replayed=torch.zeros(len(rollout), dtype=torch.bool, device=rollout.scores.device))
    order = torch.arange(len(rollout)).view(-1, size)
    order[idle[: len(chosen)]] = len(rollout) + torch.arange(len(kept)).view(-1, size)
    return concatenate(fresh, kept).take(order.flatten().tolist())


def asked_anew(run: Run, online: Online, prompts: Dataset, groups: list[KeptGroup]) -> Rollout:
    """Kept groups as a rollout of the policy and the reference as they are now."""
    config, device = run.config, plain_lm(online.models.policy).device
    rows = [prompts[group.number] for group in groups for _ in group.ids]
    completions = [ids for group in groups for ids in group.ids]
    samples = Samples(
        completion_ids=pad_right(completions, online.sampler.pad_id).to(device),
        completion_mask=pad_right([[1] * len(ids) for ids in completions]).float().to(device),
        logprobs=pad_right([row for group in groups for row in group.logprobs], 0.0).to(device),
        finished=torch.tensor([ended for group in groups for ended in group.finished], device=device),
    )

    def column(of: Callable[[KeptGroup], list[float]]) -> Tensor:
        return torch.tensor([number for group in groups for number in of(group)], device=device)

    with evaluating(*online.models.trained), named("completions of the replay buffer", lambda: ""):
        scored = score_tokens(online, rows, completions, samples, config.kl_measured == "step", lambda: "")
    return Rollout(
        rows=rows,
        completion_ids=samples.completion_ids,
        completion_mask=samples.completion_mask,
        finished=samples.finished,
        sampler_logprobs=samples.logprobs,
        scores=column(lambda group: group.scores),
        source_scores={name: column(lambda group, name=name: group.sources[name]) for name in groups[0].sources},
        extra=[{}] * len(rows),
        numbers=torch.tensor([group.number for group in groups for _ in group.ids], device=device),
        replayed=torch.ones(len(rows), dtype=torch.bool, device=device),
        staleness=column(lambda group: [float(run.step - group.step + group.staleness)] * len(group.ids)),
        **scored,
    )


def packed_groups(groups: list[KeptGroup]) -> Iterator[tuple[str, Tensor]]:
    """Groups of one size as tensors by name."""
    completions = [ids for group in groups for ids in group.ids]
    yield "number", torch.tensor([group.number for group in groups])
    yield "step", torch.tensor([group.step for group in groups])
    yield "ids", pad_right(completions)
    yield "mask", pad_right([[1] * len(ids) for ids in completions])
    yield "logprobs", pad_right([row for group in groups for row in group.logprobs], 0.0).double()
    yield "staleness", torch.tensor([group.staleness for group in groups])
    yield "finished", torch.tensor([group.finished for group in groups])
    yield "scores", torch.tensor([group.scores for group in groups], dtype=torch.float64)
    for name in groups[0].sources:
        yield f"source/{name}", torch.tensor([group.sources[name] for group in groups], dtype=torch.float64)


def unpacked_groups(kept: dict[str, Tensor]) -> list[KeptGroup]:
    """The groups that packed_groups has packed_groups."""
    size = kept["scores"].shape[1]
    ids = unpad(kept["ids"], kept["mask"])
    logprobs = [row[: len(own)] for row, own in zip(kept["logprobs"].tolist(), ids, strict=True)]
    staleness = kept.get("staleness", torch.zeros_like(kept["step"])).tolist()
    sources = {name.removeprefix("source/"): kept[name].tolist() for name in kept if name.startswith("source/")}
    return [
        KeptGroup(
            number=number,
            step=kept["step"][place].item(),
            ids=ids[place * size : (place + 1) * size],
            logprobs=logprobs[place * size : (place + 1) * size],
            finished=kept["finished"][place].tolist(),
            scores=kept["scores"][place].tolist(),
            sources={name: raw[place] for name, raw in sources.items()},
            staleness=staleness[place],
        )
        for place, number in enumerate(kept["number"].tolist())
    ]

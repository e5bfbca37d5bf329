"""Collect: sample completions, then let policy, reference, value model and rewards say what they think of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from easyrlhf.engine import processes
from easyrlhf.engine.faults import named
from easyrlhf.engine.micro_batches import group_by_prompt, grouped_micro_batches
from easyrlhf.models.logprobs import answer_logprobs_and_entropies, token_logprobs
from easyrlhf.models.parts import evaluating
from easyrlhf.models.value_head import ScalarModel
from easyrlhf.online.rollout import Rollout, unpad
from easyrlhf.rewards.batch import RewardBatch
from easyrlhf.rewards.combined import Rewards
from easyrlhf.rollout.sampler import Sampler
from easyrlhf.run.timer import Timer


@dataclass(frozen=True)
class Models:
    """The models of online learning; the rewards hold the reward model.

    policy     trained
    reference  frozen; None when it is the policy with its adapter off, or never asked
    value      trained; None for methods without one
    share      whether prompts are computed once for all of their completions, as in completion_states
    """

    policy: nn.Module
    reference: nn.Module | None
    value: ScalarModel | None
    share: str = "off"

    @property
    def trained(self) -> list[nn.Module]:
        """The models that learn."""
        return [self.policy] if self.value is None else [self.policy, self.value]

    def ref_logprobs(self, *how: Any) -> Tensor:
        """token_logprobs under the reference.  [n]"""
        if self.reference is not None:
            return token_logprobs(self.reference, *how)
        with self.policy.disable_adapter():
            return token_logprobs(self.policy, *how)


@torch.no_grad()
def collect(
    models: Models,
    sampler: Sampler,
    rewards: Rewards,
    rows: list[dict[str, Any]],
    keys: list[tuple[int, ...]],
    micro_batch_tokens: int,
    timer: Timer,
    with_reference: bool = True,
) -> Rollout:
    """Sample one completion for each prompt row and score it with every model; each process a share, all get all.

    rows  prompt rows as load_tokens gives them
    keys  what the sampler draws each row's random numbers from
    with_reference  whether the reference is asked as well
    Raises RewardError when a reward source fails, ServiceError when sampling or a model does.
    """

    def longest() -> str:
        return RewardBatch.of(rows, completions, [False] * len(rows), rewards.renderer).longest_sample()

    # 1. Sample. A key belongs to a sample, not to a place in a batch: the same sample whoever draws it.
    completions: list[list[int]] = [[] for _ in rows]
    with timer("rollout"), named("sampling with the policy", longest):
        samples = sampler.generate([row["prompt_ids"] for row in rows], keys)
    completions = unpad(samples.completion_ids, samples.completion_mask)
    # 2. Ask the models, dropout off; the policy too, for what its sampler knew already: the first update's ratio is
    # then 1 by the same arithmetic, and what the sampler's numbers differ by can be measured.
    with timer("score"), evaluating(*models.trained):
        how = samples.completion_mask, sampler, micro_batch_tokens, with_reference, longest
        scored = score_tokens(models, rows, completions, *how)
        # 3. Score whole completions, all those of a prompt in one call: a function may compare them.
        scores, source_scores = rewards(rows, completions, samples.finished)
    return Rollout(
        rows=rows,
        completion_ids=samples.completion_ids,
        completion_mask=samples.completion_mask,
        finished=samples.finished,
        sampler_logprobs=samples.logprobs,
        scores=scores,
        source_scores=source_scores,
        extra=list(rewards.extra),
        **scored,
    )


def score_tokens(
    models: Models,
    rows: list[dict[str, Any]],
    completions: list[list[int]],
    completion_mask: Tensor,
    sampler: Sampler,
    micro_batch_tokens: int,
    with_reference: bool,
    show: Callable[[], str],
) -> dict[str, Tensor | None]:
    """Per-token numbers of every completion from policy, reference and value model, each [B, T], 0 on padding.

    show  → a sample, for the ServiceError that is raised when one of them fails
    """
    names = ["old_logprobs", "entropies"] + ["ref_logprobs"] * with_reference + ["values"] * (models.value is not None)
    scored = {name: torch.zeros_like(completion_mask) for name in names}
    prompts, device = [row["prompt_ids"] for row in rows], completion_mask.device

    def own() -> None:
        for group, counts in grouped_micro_batches(
            prompts, list(map(len, completions)), micro_batch_tokens, models.share
        ):
            families = group_by_prompt([prompts[i] for i in group], [completions[i] for i in group])
            how = families, sampler.pad_id, device, models.share, sampler.temperature
            # Each model by its name, in the order of `names`: an error of one must not pass for another's.
            with named("the policy", show):
                found = [*answer_logprobs_and_entropies(models.policy, *how)]
            if with_reference:
                with named("the reference", show):
                    found.append(models.ref_logprobs(*how))
            if models.value is not None:
                with named("the value model", show):
                    found.append(models.value.completion_values(families, sampler.pad_id, models.share))
            counted = completion_mask[group].bool()
            # What is computed twice, so that all processes make as many passes, is taken once.
            for name, flat in zip(names, found, strict=True) if counts else ():
                scored[name][group] = scored[name][group].masked_scatter(counted, flat.float())

    processes.gather_results(own)
    return {"values": None, "ref_logprobs": None} | {
        name: processes.all_reduce_sum(numbers) for name, numbers in scored.items()
    }

"""A rollout: one batch of samples and what the models said of them."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from easyrlhf.config import OnlineConfig
from easyrlhf.engine.micro_batches import MicroBatch, Passes, group_by_prompt
from easyrlhf.losses.importance import importance_weights, off_policy_mask
from easyrlhf.models.prefix_sharing import PromptGroup
from easyrlhf.rewards.combined import failed_episodes


@dataclass(frozen=True)
class Rollout:
    """B completions of at most T tokens, right-padded; masks are 1 on tokens that count.

    rows             the prompt rows they answer
    completion_mask  [B, T]  1 through the end-of-turn token
    finished         [B]     whether the end-of-turn token was reached
    sampler_logprobs [B, T]  of each token as the sampler saw it
    old_logprobs     [B, T]  under the policy that sampled, by the same forward pass the update uses
    ref_logprobs     [B, T]  under the reference; None where it was not asked
    entropies        [B, T]  of the policy's distribution each token was drawn from, nats
    values           [B, T]  of the state before each token; None where no value model learns
    scores           [B]     weighted, clipped, missing-EOS penalty subtracted; nan where no reward applies
    source_scores    name → [B] raw scores of every reward source, and of the parts that some are made of: source/part
    kl, rewards, advantages, returns  [B, T]  filled in by estimate; no kl without a reference
    loss_mask        [B, T]  1 on tokens to learn from; None for all of completion_mask
    extra            [B]     name → value, what reward functions have logged of each completion
    action_mask      [B, T]  1 on tokens that the policy sampled; None where it sampled all of completion_mask. What
                             says something of the policy (log-probabilities, values, advantages) is 0 elsewhere
    numbers          [B]     of the prompts among the run's; None where nobody asks
    replayed         [B]     whether a completion is an earlier policy's; None where none is
    staleness        [B]     updates between the weights it was drawn with and the policy it was collected for; None
                             where nobody asks
    turn_rewards     [B, T]  of the scores what turns before the last earned, at the last token of each; None without
    """

    rows: list[dict[str, Any]]
    completion_ids: Tensor
    completion_mask: Tensor
    finished: Tensor
    sampler_logprobs: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor | None
    entropies: Tensor
    values: Tensor | None
    scores: Tensor
    source_scores: dict[str, Tensor]
    kl: Tensor | None = None
    rewards: Tensor | None = None
    advantages: Tensor | None = None
    returns: Tensor | None = None
    loss_mask: Tensor | None = None
    extra: list[dict[str, Any]] | None = None
    action_mask: Tensor | None = None
    turn_rewards: Tensor | None = None
    numbers: Tensor | None = None
    replayed: Tensor | None = None
    staleness: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each completion.  [B]"""
        return self.completion_mask.sum(1).long()

    @property
    def scored(self) -> Tensor:
        """Whether any reward applies to a completion.  [B]"""
        return ~self.scores.isnan()

    @property
    def dropped(self) -> Tensor:
        """Whether a completion is an episode whose environment failed: it counts for nothing.  [B]"""
        return failed_episodes(self.rows).to(self.scores.device)

    @property
    def learned(self) -> Tensor:
        """1 on the tokens to learn from.  [B, T]"""
        return self.actions if self.loss_mask is None else self.loss_mask

    @property
    def actions(self) -> Tensor:
        """1 on the tokens that the policy sampled.  [B, T]"""
        return self.completion_mask if self.action_mask is None else self.action_mask

    @property
    def has_advantage(self) -> Tensor:
        """Whether a completion is better or worse than what it is compared with; of an estimated rollout.  [B]"""
        return self.advantages.any(1)

    @property
    def log_ratios(self) -> Tensor | None:
        """log policy − log reference, summed over each completion, nats; None without a reference.  [B]"""
        if self.ref_logprobs is None:
            return None
        return ((self.old_logprobs - self.ref_logprobs) * self.actions).sum(1)

    @property
    def share_replayed(self) -> float:
        """Share of the completions that are an earlier policy's."""
        return 0.0 if self.replayed is None else self.replayed.float().mean().item()

    @property
    def prompt_ids(self) -> list[list[int]]:
        """Token ids of the prompts."""
        return [row["prompt_ids"] for row in self.rows]

    def completions(self) -> list[list[int]]:
        """Token ids of the completions without padding."""
        return unpad(self.completion_ids, self.completion_mask)

    def groups(self) -> list[PromptGroup]:
        """Prompts with their completions, as models read them."""
        return group_by_prompt(self.prompt_ids, self.completions())

    def micro_batches(self, passes: Passes) -> list[MicroBatch]:
        """Rows of each forward pass of this process, and what its numbers weigh."""
        return passes.over(self.prompt_ids, self.lengths.tolist())

    def flat(self, *names: str) -> list[Tensor]:
        """The numbers of these fields that stand on sampled tokens, row by row, each [n]."""
        counted = self.actions.bool()
        return [getattr(self, name)[counted] for name in names]

    def sampled(self, numbers: Tensor) -> Tensor:
        """Of a model's numbers for all completion tokens those of sampled ones.  [N] → [n]"""
        if self.action_mask is None:
            return numbers
        return numbers[self.action_mask[self.completion_mask.bool()].bool()]

    def importance_weights(self, config: OnlineConfig) -> Tensor:
        """How much each token counts for having been drawn by a sampler that is not quite the policy.  [B, T]

        Of an earlier policy's completions that is the weight of the whole completion.
        """
        numbers = self.old_logprobs, self.sampler_logprobs, self.actions
        weights = self.actions
        if config.corrects_sampling:
            weights = importance_weights(*numbers, config.importance_correction, config.importance_cap)
        if self.replayed is None:
            return weights
        whole = importance_weights(*numbers, "sequence", config.importance_cap)
        return torch.where(self.replayed[:, None], whole, weights)

    def near_policy(self, logprobs: Tensor, threshold: float) -> tuple["Rollout", float]:
        """The rollout without the advantages of what the policy has left behind, and how many tokens those are.

        The KL of these tokens still counts: only their advantage is not to be trusted.

        logprobs   [n]  of the sampled tokens under the policy
        threshold  as in off_policy_mask
        """
        sampled, advantages = self.flat("sampler_logprobs", "advantages")
        rows = self.actions.nonzero()[:, 0]
        kept = off_policy_mask(sampled - logprobs, advantages, rows, threshold)
        near = self.advantages.masked_scatter(self.actions.bool(), advantages * kept)
        return replace(self, advantages=near), (1 - kept).sum().item()

    def take(self, indices: list[int]) -> "Rollout":
        """The samples with these indices, in this order."""
        index = torch.tensor(indices, dtype=torch.long, device=self.completion_ids.device)
        changed = {
            field.name: getattr(self, field.name)[index]
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        changed["rows"] = [self.rows[i] for i in indices]
        changed["extra"] = self.extra and [self.extra[i] for i in indices]
        changed["source_scores"] = {name: scores[index] for name, scores in self.source_scores.items()}
        return replace(self, **changed)


def concatenate(first: Rollout, second: Rollout) -> Rollout:
    """Two rollouts, as they were collected, as one."""
    width = max(first.completion_ids.shape[1], second.completion_ids.shape[1])

    def joined(name: str) -> Tensor | None:
        parts = [getattr(rollout, name) for rollout in (first, second)]
        if parts[0] is None:
            return None
        if parts[0].ndim == 2:
            parts = [pad(part, (0, width - part.shape[1])) for part in parts]
        return torch.cat(parts)

    tensors = {f.name: joined(f.name) for f in fields(Rollout) if f.name not in ("rows", "source_scores", "extra")}
    sources = scores_by_source([first, second])
    extra = first.extra and first.extra + second.extra
    return Rollout(rows=first.rows + second.rows, source_scores=sources, extra=extra, **tensors)


def scores_by_source(rollouts: list[Rollout]) -> dict[str, Tensor]:
    """The raw scores of all of them, one behind the other; nan for parts that one rollout has and another has not."""
    names = dict.fromkeys(name for rollout in rollouts for name in rollout.source_scores)
    return {
        name: torch.cat([one.source_scores.get(name, torch.full_like(one.scores, torch.nan)) for one in rollouts])
        for name in names
    }


def unpad(ids: Tensor, mask: Tensor) -> list[list[int]]:
    """Rows of a right-padded tensor as lists of the ids that count."""
    lengths = mask.sum(1).long().tolist()
    return [row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)]

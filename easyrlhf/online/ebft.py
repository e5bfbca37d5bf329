"""EBFT: completions are compared with demonstrations, by what the frozen start model makes of them.

Energy-based fine-tuning (arXiv 2603.12248). Of each prompt n completions y_j are sampled; φ_j are their features and φ*
those of the demonstration (models/features.py), in the measure of losses/ebft.py's Whitening; m_j is the mean of the
others' features. The policy descends whole completions, as RLOO does, with the advantage

    A_j = 2 (φ_j − m_j) · (α φ* − δ m_j)                                         ebft_advantages

and beside, where ce_coef asks for it, the demonstrations' cross-entropy (ptx.py). The score that is logged is the
paper's reward, 2α φ_j·φ* − 2δ φ_j·m_j.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from easyrlhf.config import EBFTConfig
from easyrlhf.engine import processes
from easyrlhf.losses.ebft import Whitening, alignment_and_diversity, ebft_advantages, feature_matching_loss
from easyrlhf.losses.grpo import rloo_advantages
from easyrlhf.models.features import completion_features
from easyrlhf.online.grpo import each_completion, rloo_loss, with_advantages
from easyrlhf.online.method import Method
from easyrlhf.online.rollout import Rollout
from easyrlhf.online.state import Models
from easyrlhf.rewards.batch import Row

ALIGNMENT, DIVERSITY = "alignment", "diversity"  # the reward's two parts, by the names of their sources


@dataclass
class FeatureMatching:
    """The features of completions and of demonstrations, under the frozen start model.

    layers, pooling  as completion_features has them
    group_size       completions of a prompt in a rollout
    whitening        the measure in which features are compared; None: as they are
    """

    models: Models
    layers: list[int]
    pooling: str
    group_size: int
    whitening: Whitening | None = None
    last: tuple[list[list[int]], tuple[Tensor, Tensor]] | None = field(default=None, repr=False)

    def features(self, prompts: list[list[int]], completions: list[list[int]]) -> Tensor:
        """Of each completion behind its prompt, before whitening; each process reads a share, all get all.  [B, D]"""
        found: dict[int, Tensor] = {}

        def own() -> dict[int, Tensor]:
            share = self.models.passes.share
            with self.models.as_reference() as lm:
                for group, weight in self.models.passes.over(prompts, [len(ids) for ids in completions]):
                    rows = [(prompts[i], completions[i]) for i in group]
                    read = completion_features(lm, rows, self.layers, self.pooling, share).double().cpu()
                    if weight:  # what is read twice, so that all processes make as many passes, is taken once
                        found.update(zip(group, read, strict=True))
            return found

        every = {row: one for part in processes.gather_results(own) for row, one in part.items()}
        return torch.stack([every[row] for row in range(len(prompts))])

    def terms(self, rows: list[Row], completions: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Alignment and diversity of each completion; where rows are no groups, each is alone.  [B], [B]"""
        if self.last is None or self.last[0] is not completions:  # both sources ask for the same ones
            size = self.group_size if in_groups(rows, self.group_size) else 1
            prompts, answers = ([row[key] for row in rows[::size]] for key in ("prompt_ids", "answer_ids"))
            found = self.features([row["prompt_ids"] for row in rows], completions)
            targets = self.features(prompts, answers)
            if self.whitening is not None:
                found, targets = self.whitening(found), self.whitening(targets)
            self.last = completions, alignment_and_diversity(found, targets.repeat_interleave(size, 0), size)
        return self.last[1]


def in_groups(rows: list[Row], size: int) -> bool:
    """Whether rows that stand together, so many at a time, are completions of one demonstration's prompt."""
    numbers = [row["number"] for row in rows]
    return len(rows) % size == 0 and all(numbers[place] == numbers[place // size * size] for place in range(len(rows)))


@dataclass(frozen=True)
class FeatureSource:
    """One of the two parts as a source of rewards; None for completions that have no others to be unlike."""

    name: str
    matching: FeatureMatching

    def __call__(self, rows: list[Row], completions: list[list[int]], finished: Tensor) -> list[float | None]:
        """The part of each completion."""
        part = self.matching.terms(rows, completions)[self.name == DIVERSITY]
        return [None if number != number else number for number in part.tolist()]


def estimate_ebft(rollout: Rollout, config: EBFTConfig, kl_coef: float) -> Rollout:
    """EBFT's: which way the policy's mean feature should go; the KL of the whole completion against the others'."""
    parts = rollout.source_scores[ALIGNMENT].double(), rollout.source_scores[DIVERSITY].double()
    size = config.num_generations
    advantages = ebft_advantages(*parts, size, config.alignment_coef, config.diversity_coef)
    if kl_coef and rollout.log_ratios is not None:
        advantages = advantages - kl_coef * rloo_advantages(rollout.log_ratios, size)
    return with_advantages(rollout, advantages.to(rollout.scores.dtype), config)


def ebft_metrics(rollout: Rollout) -> dict[str, float]:
    """What the features of a rollout say."""
    alignment, diversity = rollout.source_scores[ALIGNMENT], rollout.source_scores[DIVERSITY]
    return {
        "ebft/alignment": alignment.mean().item(),
        "ebft/diversity": diversity.mean().item(),
        "ebft/cfm": feature_matching_loss(alignment, diversity).item(),
        "ebft/reward": rollout.scores.mean().item(),
    }


EBFT = Method(estimate_ebft, rloo_loss, each_completion, metrics=ebft_metrics)

"""Energy-based fine-tuning: completions whose features match those of demonstrations (arXiv 2603.12248).

The objective of a prompt, with features φ of length 1 and φ* those of its demonstration:

    L = δ · ‖E φ(y)‖² − 2α · E φ(y) · φ* + 1,    y sampled from the policy

which for α = δ = 1 is the squared distance between what the policy says on the average and what it should.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize


def alignment_and_diversity(features: Tensor, targets: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """φ_j · φ*, and φ_j · m_j, where m_j is the mean feature of the others in its group.

    features, targets  [B, D]  of completions and of their prompts' demonstrations, each of length 1; groups together
    returns            [B], [B]  the second nan in groups of one, which have no others
    """
    groups = features.view(-1, group_size, features.shape[1])
    grams = groups @ groups.mT
    others = (grams.sum(2) - grams.diagonal(dim1=1, dim2=2)) / (group_size - 1 or torch.nan)
    return (features * targets).sum(1), others.flatten()


def ebft_advantages(
    alignment: Tensor, diversity: Tensor, group_size: int, alignment_coef: float, diversity_coef: float
) -> Tensor:
    """A_j = 2 (φ_j − m_j) · (α φ* − δ m_j), whose policy gradient is that of L exactly, in groups of two or more.

    The reward 2α φ_j·φ* − 2δ φ_j·m_j less what does not depend on φ_j: 2α m_j·φ* − 2δ m_j·m_j. The mean reward of the
    others, a usual baseline, holds φ_j; with it diversity counts (n − 2)/(n − 1) of δ, in groups of two nothing.

    alignment, diversity  [B]  as alignment_and_diversity gives them; groups together
    returns               [B]
    """
    n, aligned, alike = group_size, alignment.view(-1, group_size), diversity.view(-1, group_size)
    others_aligned = (aligned.sum(1, keepdim=True) - aligned) / (n - 1)  # m_j · φ*
    with_sum = 1 + (n - 1) * alike  # φ_j · S, S the sum of the group's features
    of_sum = n + (n - 1) * alike.sum(1, keepdim=True)  # S · S
    others_alike = (of_sum - 2 * with_sum + 1) / (n - 1) ** 2  # m_j · m_j
    pulled, pushed = alignment_coef * (aligned - others_aligned), diversity_coef * (alike - others_alike)
    return 2 * (pulled - pushed).flatten()


def feature_matching_loss(alignment: Tensor, diversity: Tensor) -> Tensor:
    """‖E φ(y) − φ*‖² estimated without bias: over pairs of different completions.  []

    alignment, diversity  [B]  as alignment_and_diversity gives them
    """
    return diversity.mean() - 2 * alignment.mean() + 1


@dataclass(frozen=True)
class Whitening:
    """φ → (Σ + ε λ_max I)^(−½) (φ − mean), made of length 1, in the directions in which features were seen to differ.

    mean        [D]
    directions  [D, R]  of length 1, apart from one another
    scales      [R]     (λ + ε λ_max)^(−½) of each
    floor       []      that of all other directions, (ε λ_max)^(−½)
    """

    mean: Tensor
    directions: Tensor
    scales: Tensor
    floor: Tensor

    @classmethod
    def of(cls, features: Tensor, epsilon: float) -> "Whitening":
        """That which makes these features alike in all directions.

        features  [N, D]
        epsilon   above 0: what directions without a difference count for
        """
        mean = features.mean(0)
        _, lengths, directions = torch.linalg.svd(features - mean, full_matrices=False)
        variances = lengths**2 / (len(features) - 1)
        floor = epsilon * variances.max()
        return cls(mean, directions.mT.contiguous(), (variances + floor).rsqrt(), floor.rsqrt())

    def __call__(self, features: Tensor) -> Tensor:
        """Features [N, D] in this measure, of length 1.  [N, D]"""
        centred = features - self.mean
        along = centred @ self.directions
        return normalize(self.floor * centred + (along * (self.scales - self.floor)) @ self.directions.mT, dim=1)

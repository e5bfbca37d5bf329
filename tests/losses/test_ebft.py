"""Energy-based fine-tuning in a world small enough to sum over: five completions of one prompt, fixed features."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from easyrlhf.losses.ebft import (
    Whitening,
    alignment_and_diversity,
    ebft_advantages,
    feature_matching_loss,
)
from easyrlhf.losses.grpo import group_advantages, rloo_advantages

COUNT = 5
NOISE = torch.Generator().manual_seed(0)
FEATURES = normalize(torch.randn(COUNT, 3, generator=NOISE, dtype=torch.float64), dim=1)
START = torch.randn(COUNT, generator=NOISE, dtype=torch.float64) * 0.7
EXACT = {"rtol": 0, "atol": 1e-12}


def distance(logits: Tensor, features: Tensor, target: Tensor, alpha: float = 1.0, delta: float = 1.0) -> Tensor:
    """The objective, written down as it is defined."""
    mean = logits.softmax(0) @ features
    return delta * mean @ mean - 2 * alpha * mean @ target + 1


def gradient(loss, logits: Tensor) -> Tensor:
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(logits), logits)[0]


def expected(n: int, advantages) -> Tensor:
    """−E[mean_j A_j ∇ log p(y_j)], summed over all groups of n completions; advantages: numbers of them → [n]."""
    chances = START.softmax(0)
    scores = torch.eye(COUNT, dtype=torch.float64) - chances
    total = torch.zeros(COUNT, dtype=torch.float64)
    for group in itertools.product(range(COUNT), repeat=n):
        rows = list(group)
        total -= chances[rows].prod() * (advantages(rows)[:, None] * scores[rows]).mean(0)
    return total


def terms(rows: list[int]) -> tuple[Tensor, Tensor]:
    return alignment_and_diversity(FEATURES[rows], FEATURES[2].expand(len(rows), 3), len(rows))


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("alpha, delta", [(1.0, 1.0), (0.7, 1.9), (1.0, 0.0)])
def test_the_policy_gradient_is_that_of_the_objective(n, alpha, delta):
    found = expected(n, lambda rows: ebft_advantages(*terms(rows), n, alpha, delta))
    by_hand = gradient(lambda logits: distance(logits, FEATURES, FEATURES[2], alpha, delta), START)
    torch.testing.assert_close(found, by_hand, **EXACT)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_the_others_mean_reward_as_baseline_loses_diversity(n):
    def reward(rows: list[int]) -> Tensor:
        aligned, alike = terms(rows)
        return 2 * aligned - 2 * alike

    lost = gradient(lambda logits: distance(logits, FEATURES, FEATURES[2], 1.0, (n - 2) / (n - 1)), START)
    torch.testing.assert_close(expected(n, lambda rows: rloo_advantages(reward(rows), n)), lost, **EXACT)
    of_group = expected(n, lambda rows: group_advantages(reward(rows), n, "none"))
    torch.testing.assert_close(of_group, (1 - 1 / n) * lost, **EXACT)
    true = gradient(lambda logits: distance(logits, FEATURES, FEATURES[2]), START)
    assert (lost - true).abs().max() > 0.01


def test_groups_are_apart():
    rows = [0, 1, 4, 3, 3, 2]
    targets = FEATURES[[2, 2, 2, 0, 0, 0]]
    together = ebft_advantages(*alignment_and_diversity(FEATURES[rows], targets, 3), 3, 1.0, 1.0)
    for group, target in ((slice(0, 3), 2), (slice(3, 6), 0)):
        own = FEATURES[rows[group]]
        for j in range(3):
            others = own[[k for k in range(3) if k != j]].mean(0)
            by_hand = 2 * (own[j] - others) @ (FEATURES[target] - others)
            torch.testing.assert_close(together[group][j], by_hand, **EXACT)


def test_the_distance_is_estimated_without_bias():
    chances = START.softmax(0)
    found = sum(
        chances[list(rows)].prod() * feature_matching_loss(*terms(list(rows)))
        for rows in itertools.product(range(COUNT), repeat=3)
    )
    torch.testing.assert_close(found, distance(START, FEATURES, FEATURES[2]), **EXACT)
    assert feature_matching_loss(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0])).item() == 0.0


def test_a_completion_alone_has_no_others():
    aligned, alike = alignment_and_diversity(FEATURES, FEATURES.roll(1, 0), 1)
    torch.testing.assert_close(aligned, (FEATURES * FEATURES.roll(1, 0)).sum(1), **EXACT)
    assert alike.isnan().all()


# --- optima: the expected advantage of each completion, followed until it is the same for all


def descend(step, start: Tensor, steps: int, rate: float) -> Tensor:
    logits = start.clone()
    for _ in range(steps):
        logits = logits + rate * step(logits)
    return logits.softmax(0)


def expected_step(logits: Tensor, features: Tensor, target: Tensor, more=None) -> Tensor:
    """The expected policy gradient at infinitely many samples, where m_j is the mean feature: p_j (A_j − E A)."""
    chances = logits.softmax(0)
    aligned, alike = features @ target, features @ (chances @ features)
    reward = 2 * aligned - 2 * alike + (0 if more is None else more(chances))
    return chances * (reward - chances @ reward)


def test_with_one_feature_each_the_policy_becomes_the_demonstrations():
    wanted = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=torch.float64)
    found = descend(
        lambda logits: expected_step(logits, torch.eye(5).double(), wanted), torch.zeros(5).double(), 4000, 2
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_with_a_price_of_distance_it_is_the_start_times_an_energy():
    beta, start = 0.3, START.softmax(0)

    def price(chances: Tensor) -> Tensor:
        return -beta * (chances / start).log()

    found = descend(lambda logits: expected_step(logits, FEATURES, FEATURES[2], price), START, 4000, 1)
    energy = FEATURES @ (2 / beta * (FEATURES[2] - found @ FEATURES))
    torch.testing.assert_close(found, (start.log() + energy).softmax(0), rtol=0, atol=1e-4)
    assert found.max() < 0.9


def test_samples_alone_lead_there_too():
    """Groups of four drawn from the policy, one-hot features, demonstrations drawn from q: p comes near q."""
    wanted, draw = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=torch.float64), torch.Generator().manual_seed(3)
    logits, hot, mean = torch.zeros(5).double(), torch.eye(5).double(), torch.zeros(5).double()
    for step in range(3000):
        chances = logits.softmax(0)
        said = torch.multinomial(chances.expand(64, 5), 4, replacement=True, generator=draw)
        shown = torch.multinomial(wanted, 64, replacement=True, generator=draw).repeat_interleave(4)
        found = ebft_advantages(*alignment_and_diversity(hot[said.flatten()], hot[shown], 4), 4, 1.0, 1.0)
        logits = logits + 0.4 * (found[:, None] * (hot[said.flatten()] - chances)).mean(0)
        mean += chances / 1500 if step >= 1500 else 0
    torch.testing.assert_close(mean, wanted, rtol=0, atol=0.02)


# --- whitening


def test_whitening_makes_features_alike_in_all_directions():
    draw = torch.Generator().manual_seed(1)
    mixed = torch.randn(400, 4, generator=draw).double() @ torch.diag(torch.tensor([9.0, 3.0, 1.0, 0.5]).double())
    features = mixed @ torch.linalg.qr(torch.randn(4, 4, generator=draw).double())[0] + 5
    whitening = Whitening.of(features, 0.01)
    values, vectors = torch.linalg.eigh(features.T.cov())
    root = vectors @ torch.diag((values + 0.01 * values.max()).rsqrt()) @ vectors.T
    by_hand = normalize((features - features.mean(0)) @ root, dim=1)
    torch.testing.assert_close(whitening(features), by_hand, rtol=0, atol=1e-9)


def test_fewer_samples_than_features_leave_directions_of_which_little_is_known():
    """Along those they count as if ε λ_max were their variance."""
    draw = torch.Generator().manual_seed(2)
    features, other = torch.randn(5, 12, generator=draw).double(), torch.randn(3, 12, generator=draw).double()
    values, vectors = torch.linalg.eigh(features.T.cov())
    root = vectors @ torch.diag((values.clamp(min=0) + 0.1 * values.max()).rsqrt()) @ vectors.T
    by_hand = normalize((other - features.mean(0)) @ root, dim=1)
    torch.testing.assert_close(Whitening.of(features, 0.1)(other), by_hand, rtol=0, atol=1e-9)
    assert Whitening.of(features, 0.1).directions.shape == (12, 5)

"""KL estimators by their exact expectation, and the KL controller by hand."""

import math

import pytest
import torch
from torch import tensor as T

from easyrlhf.losses.kl import KL_ESTIMATORS, adapted_kl_coef, kl_k1, kl_k3

PAIRS = [
    ([0.7, 0.2, 0.1], [0.2, 0.3, 0.5]),
    ([0.1, 0.1, 0.8], [0.3, 0.3, 0.4]),
    ([0.98, 0.01, 0.01], [0.01, 0.01, 0.98]),
]


@pytest.mark.parametrize("name", ["k1", "k3"])
@pytest.mark.parametrize("policy, reference", PAIRS)
def test_the_exact_expectation_of_each_estimator_is_the_kl_of_policy_to_reference(name, policy, reference):
    kl = sum(p * math.log(p / q) for p, q in zip(policy, reference, strict=True))
    p, q = T(policy, dtype=torch.float64), T(reference, dtype=torch.float64)
    assert (p * KL_ESTIMATORS[name](p.log(), q.log())).sum().item() == pytest.approx(kl, rel=1e-12)


def test_kl_of_the_first_pair_by_hand():
    # .7 ln 3.5 + .2 ln 2/3 + .1 ln .2 = .87693 - .08109 - .16094 = .63490; the other way round it is .58472
    p, q = T(PAIRS[0][0]), T(PAIRS[0][1])
    assert (p * kl_k1(p.log(), q.log())).sum().item() == pytest.approx(0.63490, abs=1e-5)


def test_one_token_by_hand():
    logprob, ref_logprob = T(math.log(0.5)), T(math.log(0.25))
    assert kl_k1(logprob, ref_logprob).item() == pytest.approx(math.log(2))  # likelier under the policy: positive
    assert kl_k3(logprob, ref_logprob).item() == pytest.approx(0.5 - 1 + math.log(2))  # r = ½
    assert kl_k1(ref_logprob, logprob).item() == pytest.approx(-math.log(2))
    assert kl_k3(ref_logprob, logprob).item() == pytest.approx(2 - 1 - math.log(2))  # r = 2


def test_k3_is_never_negative_and_zero_only_for_equal_logprobs():
    ratios = torch.arange(-50, 51, dtype=torch.float64) / 10
    values = kl_k3(ratios, torch.zeros_like(ratios))
    assert (values >= 0).all()
    assert (values == 0).nonzero().flatten().tolist() == [50]


def test_k3_keeps_its_digits_for_tiny_differences():
    # d = 1e-4: e^-d - 1 + d = d²/2 - d³/6 = 4.99983e-9, lost in float32 when written exp(x) - 1 - x
    assert kl_k3(T(1e-4), T(0.0)).item() == pytest.approx(5e-9, rel=0.01)


@pytest.mark.parametrize(
    "kl, episodes, expected",
    [
        (6.6, 100, 0.05 * 1.001),  # 10 % above target: 1 + 0.1 · 100 / 10,000
        (5.7, 1000, 0.05 * 0.995),  # 5 % below: 1 - 0.05 · 1000 / 10,000
        (9.0, 64, 0.05 * 1.00128),  # 50 % above, taken as 20 %: 1 + 0.2 · 64 / 10,000
        (0.0, 64, 0.05 * 0.99872),  # 100 % below, taken as 20 %
        (-3.0, 10_000, 0.05 * 0.8),  # the estimate may be negative
        (6.0, 64, 0.05),
    ],
)
def test_adapted_kl_coef_by_hand(kl, episodes, expected):
    assert adapted_kl_coef(0.05, kl, kl_target=6.0, episodes=episodes) == pytest.approx(expected, rel=1e-12)

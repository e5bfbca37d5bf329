"""The arithmetic of PPO against values worked out by hand."""

import math

import pytest
import torch
from torch import tensor as T

from easyrlhf.losses.ppo import explained_variance, gae, ppo_policy_loss, ppo_value_loss, shape_rewards

JUNK = 1e6


# --- rewards


def test_the_score_stands_on_the_last_token_of_each_row_and_kl_on_every_token():
    mask = T([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    kl = T([[1.0, 2.0, -3.0], [4.0, JUNK, JUNK], [0.0, 5.0, JUNK]])
    rewards = shape_rewards(T([10.0, 20.0, 30.0]), kl, mask, kl_coef=0.1)
    expected = T(
        [
            [-0.1, -0.2, 10.3],  # 10 + 0.1 · 3
            [19.6, 0.0, 0.0],  # 20 - 0.1 · 4
            [0.0, 29.5, 0.0],  # 30 - 0.1 · 5
        ]
    )
    torch.testing.assert_close(rewards, expected)


def test_the_rewards_of_a_row_sum_to_its_score_less_its_kl():
    torch.manual_seed(0)
    lengths, scores, kl = T([5, 1, 3]), torch.randn(3), torch.randn(3, 5)
    mask = (torch.arange(5) < lengths[:, None]).float()
    rewards = shape_rewards(scores, kl, mask, kl_coef=0.3)
    for row, length in enumerate(lengths.tolist()):
        by_hand = scores[row].item() - 0.3 * sum(kl[row, :length].tolist())
        assert rewards[row].sum().item() == pytest.approx(by_hand, abs=1e-5)


# --- advantages


def test_gae_with_gamma_1_and_lam_half():
    # δ = (0 + .5 - .5, 0 + .5 - .5, 1 + 0 - .5) = (0, 0, .5); A = .5 · (½)², .5 · ½, .5
    advantages, returns = gae(T([[0.0, 0.0, 1.0]]), torch.full((1, 3), 0.5), torch.ones(1, 3), gamma=1.0, lam=0.5)
    torch.testing.assert_close(advantages, T([[0.125, 0.25, 0.5]]))
    torch.testing.assert_close(returns, T([[0.625, 0.75, 1.0]]))


def test_gae_with_gamma_half_by_hand():
    # V = 2, 4 and r = 1, 8: δ1 = 8 - 4 = 4; δ0 = 1 + ½·4 - 2 = 1; A0 = 1 + ½·½·4 = 2
    advantages, returns = gae(T([[1.0, 8.0]]), T([[2.0, 4.0]]), torch.ones(1, 2), gamma=0.5, lam=0.5)
    torch.testing.assert_close(advantages, T([[2.0, 4.0]]))
    torch.testing.assert_close(returns, T([[4.0, 8.0]]))


def test_gae_with_lam_0_is_the_one_step_error():
    # r + γ V' - V with γ = ½: 1 + 1.5 - 2 = .5;  2 + 2.5 - 3 = 1.5;  4 + 0 - 5 = -1
    advantages, _ = gae(T([[1.0, 2.0, 4.0]]), T([[2.0, 3.0, 5.0]]), torch.ones(1, 3), gamma=0.5, lam=0.0)
    torch.testing.assert_close(advantages, T([[0.5, 1.5, -1.0]]))


def test_gae_with_lam_1_is_the_discounted_return_less_the_value():
    # returns with γ = ½: 4;  2 + ½·4 = 4;  1 + ½·4 = 3
    advantages, returns = gae(T([[1.0, 2.0, 4.0]]), T([[2.0, 3.0, 5.0]]), torch.ones(1, 3), gamma=0.5, lam=1.0)
    torch.testing.assert_close(returns, T([[3.0, 4.0, 4.0]]))
    torch.testing.assert_close(advantages, T([[1.0, 1.0, -1.0]]))


def test_gae_equals_the_double_sum_of_its_definition():
    torch.manual_seed(1)
    gamma, lam, lengths = 0.9, 0.7, [6, 1, 4]
    rewards, values = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    mask = (torch.arange(6) < T(lengths)[:, None]).double()
    advantages, returns = gae(rewards * mask, values, mask, gamma, lam)
    for row, n in enumerate(lengths):
        r, v = rewards[row].tolist(), [*values[row, :n].tolist(), 0.0]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(n)]
        for t in range(n):
            by_hand = sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, n))
            assert advantages[row, t].item() == pytest.approx(by_hand, abs=1e-12)
            assert returns[row, t].item() == pytest.approx(by_hand + v[t], abs=1e-12)


def test_junk_in_the_padding_does_not_reach_the_advantages():
    rewards, values = T([[0.0, 1.0, JUNK, JUNK]]), T([[0.5, 0.5, JUNK, -JUNK]])
    advantages, returns = gae(rewards, values, T([[1.0, 1.0, 0.0, 0.0]]), gamma=1.0, lam=0.5)
    torch.testing.assert_close(advantages, T([[0.25, 0.5, 0.0, 0.0]]))  # δ = 0, .5
    torch.testing.assert_close(returns, T([[0.75, 1.0, 0.0, 0.0]]))


# --- losses


@pytest.mark.parametrize(
    "ratio, advantage, expected",
    [
        (1.5, +1.0, -1.2),  # good token, already likelier: the clip stops it at 1.2
        (1.5, -1.0, +1.5),  # bad token, likelier: no clip, push it down
        (0.5, +1.0, -0.5),  # good token, rarer: no clip, pull it up
        (0.5, -1.0, +0.8),  # bad token, already rarer: the clip stops it at 0.8
        (1.1, +2.0, -2.2),  # within the clip
    ],
)
def test_ppo_policy_loss_at_the_four_corners(ratio, advantage, expected):
    loss = ppo_policy_loss(T([[math.log(ratio)]]), T([[0.0]]), T([[advantage]]), 0.2, 0.2)
    assert loss.item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "ratio, advantage, slope", [(1.5, 1.0, 0.0), (1.5, -1.0, 1.5), (0.5, 1.0, -0.5), (0.5, -1.0, 0.0)]
)
def test_the_gradient_of_ppo_policy_loss_stops_where_the_clip_stops_it(ratio, advantage, slope):
    logprob = T([math.log(ratio)], requires_grad=True)
    ppo_policy_loss(logprob, T([0.0]), T([advantage]), 0.2, 0.2).sum().backward()
    assert logprob.grad.item() == pytest.approx(slope)  # -A · ratio, or 0


def test_the_gradient_at_ratio_1_is_the_policy_gradient():
    logprobs = T([-1.0, -2.0], requires_grad=True)
    ppo_policy_loss(logprobs, logprobs.detach(), T([3.0, -0.5]), 0.2, 0.2).sum().backward()
    torch.testing.assert_close(logprobs.grad, T([-3.0, 0.5]))


@pytest.mark.parametrize(
    "value, old, target, expected",
    [
        (1.0, 0.0, 2.0, 1.62),  # ½ (0.2 - 2)²: moved towards the return faster than the clip allows
        (0.1, 0.0, 2.0, 1.805),  # ½ (0.1 - 2)²: within the clip
        (-1.0, 0.0, 2.0, 4.5),  # ½ (-1 - 2)²: moved away, the unclipped error is the worse one
        (1.0, 2.0, 1.0, 0.32),  # ½ (1.8 - 1)²: already there, and still held back
    ],
)
def test_ppo_value_loss_by_hand(value, old, target, expected):
    assert ppo_value_loss(T([value]), T([old]), T([target]), cliprange_value=0.2).item() == pytest.approx(expected)


def test_a_value_beyond_the_clip_in_the_right_direction_gets_no_gradient():
    value = T([1.0, 0.1], requires_grad=True)
    ppo_value_loss(value, T([0.0, 0.0]), T([2.0, 2.0]), cliprange_value=0.2).sum().backward()
    torch.testing.assert_close(value.grad, T([0.0, -1.9]))  # V - R within the clip


@pytest.mark.parametrize(
    "values, expected",
    [
        ([1.0, 2.0, 3.0], 1.0),  # perfect
        ([11.0, 12.0, 13.0], 1.0),  # perfect but for a constant
        ([7.0, 7.0, 7.0], 0.0),  # a constant explains nothing
        ([3.0, 2.0, 1.0], -3.0),  # errors -2 0 2: variance 8/3 against 2/3
        ([1.5, 2.0, 2.5], 0.75),  # errors -½ 0 ½: (1/6) / (2/3) = ¼
    ],
)
def test_explained_variance_by_hand(values, expected):
    assert explained_variance(T(values), T([1.0, 2.0, 3.0])).item() == pytest.approx(expected)

"""From scores and KL to advantages and returns, on two completions worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import tensor as T

from easyrlhf.online.grpo import estimate_grpo, estimate_reinforce, estimate_rloo
from easyrlhf.online.methods import method_of
from easyrlhf.online.metrics import evaluation_metrics, rollout_metrics
from easyrlhf.online.ppo import estimate_ppo

EXACT = {"rtol": 0, "atol": 1e-5}


def test_ppo_by_hand(hand_rollout, ppo_config):
    done = estimate_ppo(hand_rollout, ppo_config(gamma=1.0, lam=0.5), kl_coef=0.1)
    # KL = log policy - log reference on each token, 0 on padding
    torch.testing.assert_close(done.kl, T([[0.5, 0.0, -1.0], [1.0, 0.0, 0.0]]), **EXACT)
    # - 0.1 KL, the score on the last token: 1 + 0.1, and 2
    torch.testing.assert_close(done.rewards, T([[-0.05, 0.0, 1.1], [-0.1, 2.0, 0.0]]), **EXACT)
    # δ = (-.05, 0, .6) and (-.1, 1); A = (.1, .3, .6) and (.4, 1); returns A + V, neither shifted nor scaled
    torch.testing.assert_close(done.returns, T([[0.6, 0.8, 1.1], [1.4, 2.0, 0.0]]), **EXACT)
    # mean of the five A .48, deviations -.38 -.18 .12 -.08 .52, squares sum to .468: std √.0936 = .305941
    advantages = T([[-1.242069, -0.588349, 0.392232], [-0.261488, 1.699673, 0.0]])
    torch.testing.assert_close(done.advantages, advantages, **EXACT)


def test_k3_by_hand(hand_rollout, ppo_config):
    done = estimate_ppo(hand_rollout, ppo_config(kl_estimator="k3"), kl_coef=0.1)
    # log r = -.5, 0, 1 and -1, 0: r - 1 - log r
    expected = [[math.exp(-0.5) - 0.5, 0.0, math.e - 2], [math.exp(-1), 0.0, 0.0]]
    torch.testing.assert_close(done.kl, T(expected), **EXACT)


def test_whitened_rewards_are_divided_by_their_std_and_not_shifted(hand_rollout, ppo_config):
    done = estimate_ppo(hand_rollout, ppo_config(whiten_rewards=True, gamma=1.0, lam=1.0), kl_coef=0.1)
    # mean .59, deviations -.64 -.59 .51 -.69 1.41, squares sum to 3.482: std √.6964 = .834506
    expected = T([[-0.059916, 0.0, 1.318145], [-0.119831, 2.396627, 0.0]])
    torch.testing.assert_close(done.rewards, expected, **EXACT)
    torch.testing.assert_close(done.returns[1], T([2.276796, 2.396627, 0.0]), **EXACT)


def test_gamma_and_lam_of_the_settings_are_used(hand_rollout, ppo_config):
    done = estimate_ppo(hand_rollout, ppo_config(gamma=0.5, lam=0.0), kl_coef=0.1)
    # lam 0: returns are r + ½ V': row 1: -.05 + .25, 0 + .25, 1.1; row 2: -.1 + .5, 2
    torch.testing.assert_close(done.returns, T([[0.2, 0.25, 1.1], [0.4, 2.0, 0.0]]), **EXACT)


def test_the_kl_coefficient_is_the_one_given_not_the_setting(hand_rollout, ppo_config):
    done = estimate_ppo(hand_rollout, ppo_config(kl_coef=77.0), kl_coef=0.0)
    torch.testing.assert_close(done.rewards, T([[0.0, 0.0, 1.0], [0.0, 2.0, 0.0]]), **EXACT)


@pytest.mark.parametrize("indices", [[1], [1, 0], [0, 0, 1]])
def test_take_picks_rows_of_everything(hand_rollout, ppo_config, indices):
    done = estimate_ppo(hand_rollout, ppo_config(), kl_coef=0.1)
    part = done.take(indices)
    assert len(part) == len(indices)
    for position, index in enumerate(indices):
        assert part.rows[position] is done.rows[index]
        assert part.completions()[position] == [[11, 12, 13], [14, 15]][index]
        assert part.lengths[position].item() == [3, 2][index]
        assert part.prompt_ids[position] == [[5, 6], [7]][index]
        assert part.scores[position].item() == [1.0, 2.0][index]
        assert part.source_scores["good"][position].item() == [1.0, 3.0][index]
        assert part.finished[position].item() == [True, False][index]
        assert torch.equal(part.values[position], T([[0.5, 0.5, 0.5], [1.0, 1.0, 7.0]])[index])
        assert torch.equal(part.advantages[position], done.advantages[index])
    assert hand_rollout.take([0]).advantages is None


@pytest.mark.parametrize("estimate", [estimate_ppo, estimate_grpo, estimate_rloo, estimate_reinforce])
def test_without_a_reference_everything_is_as_with_one_at_no_price(hand_rollout, ppo_config, grpo_config, estimate):
    config = ppo_config() if estimate is estimate_ppo else grpo_config(batch_size=2)
    rollout = hand_rollout if estimate is estimate_ppo else replace(hand_rollout, values=None)
    asked = estimate(rollout, config, 0.0)
    unasked = estimate(replace(rollout, ref_logprobs=None), config, 0.0)
    assert unasked.kl is None
    assert torch.equal(unasked.advantages, asked.advantages)
    found, expected = rollout_metrics(unasked, 0.0), rollout_metrics(asked, 0.0)
    assert expected.keys() - found.keys() == {"objective/kl", "objective/non_score_reward"}
    assert found == pytest.approx({name: expected[name] for name in found})
    assert found["objective/rlhf_reward"] == 1.5
    part = unasked.take([1, 0])
    assert part.kl is None and len(part) == 2
    logprobs = T([-1.5, -1.0, -1.0, -2.5, -3.5])
    if estimate is not estimate_ppo:
        loss = method_of(config).loss
        assert torch.equal(loss(unasked, logprobs, config), loss(asked, logprobs, config))


NAN = float("nan")


def test_a_completion_without_a_score_is_left_out_of_what_the_others_are_compared_with(hand_rollout, grpo_config):
    four = hand_rollout.take([0, 1, 0, 1])
    four = replace(four, scores=T([1.0, NAN, 4.0, 2.0]), source_scores={"a": T([1.0, NAN, 4.0, 2.0])})
    known = {"num_generations": 4, "reward_model": None, "reward_funcs": "a.py:a", "missing_eos_penalty": 0.5}

    def advantages(**settings):
        done = method_of(config := grpo_config(**known | settings)).estimate(four, config, 0.0)
        assert done.advantages.isfinite().all()
        return done.advantages[:, 0].tolist()

    # of 1 4 2: mean 7/3, deviations -4/3, 5/3, -1/3, spread √(42/9/2) = 1.527525
    assert advantages(scale_rewards="none") == pytest.approx([-4 / 3, 0.0, 5 / 3, -1 / 3], rel=1e-5)
    assert advantages() == pytest.approx([-0.872872, 0.0, 1.091089, -0.218218], abs=1e-3)
    assert advantages(advantage="rloo", beta=0.0) == pytest.approx([-2.0, 0.0, 2.5, -0.5], rel=1e-5)
    # tokens 3, 3 and 2 of scores 1, 4, 2: mean 2.375, variance (3·1.375² + 3·1.625² + 2·.375²) / 8 = 1.734375
    expected = [(score - 2.375) / 1.734375**0.5 for score in (1.0, 4.0, 2.0)]
    found = advantages(advantage="reinforce++", beta=0.0)
    assert found == pytest.approx([expected[0], 0.0, *expected[1:]], abs=1e-5)
    # nothing but the one reward: the same after it was standardised twice; the penalty of the last is part of it
    gdpo = advantages(multi_objective_aggregation="normalize_then_sum", missing_eos_penalty=0.0)
    assert gdpo == pytest.approx([-0.872872, 0.0, 1.091089, -0.218218], abs=1e-3)
    assert advantages(multi_objective_aggregation="normalize_then_sum")[1] == 0.0


def test_completions_without_a_score_are_counted_and_left_out_of_the_means(hand_rollout, ppo_config):
    some = replace(hand_rollout, scores=T([1.0, NAN]))
    found = rollout_metrics(estimate_ppo(some, ppo_config(), kl_coef=0.1), kl_coef=0.1)
    assert found["objective/scores"] == 1.0 and found["health/unscored"] == 0.5
    assert found["objective/rlhf_reward"] == pytest.approx(1.05)  # 1 + 0.1 · 0.5
    assert found["value/explained_variance"] == found["value/explained_variance"]
    assert "health/unscored" not in rollout_metrics(estimate_ppo(hand_rollout, ppo_config(), kl_coef=0.1), 0.1)
    assert evaluation_metrics([some])["eval/scores"] == 1.0

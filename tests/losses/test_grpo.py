"""Group advantages, GRPO's loss and its averages against numbers worked out by hand."""

import math

import pytest
import torch
from torch import tensor as T

from easyrlhf.losses.grpo import gdpo_advantages, group_advantages, grpo_policy_loss, nan_std, rloo_advantages
from easyrlhf.losses.ppo import ppo_policy_loss, token_weights

NAN = float("nan")
LIMITS = (0.2, 0.3)


def test_group_advantages_without_a_scale_are_distances_from_the_mean():
    found = group_advantages(T([1.0, 3.0, 10.0, 4.0]), 2, "none")
    assert found.tolist() == [-1.0, 1.0, 3.0, -3.0]


def test_group_advantages_are_divided_by_the_spread_of_the_group_or_of_the_batch():
    scores = T([1.0, 3.0, 10.0, 4.0])
    # group spreads with Bessel's correction: √2 and √18
    root2, root18 = math.sqrt(2) + 1e-4, math.sqrt(18) + 1e-4
    expected = [-1 / root2, 1 / root2, 3 / root18, -3 / root18]
    assert group_advantages(scores, 2, "group").tolist() == pytest.approx(expected, rel=1e-6)
    # the batch: mean 4.5, squares 12.25 + 2.25 + 30.25 + .25 = 45, over 3
    of_all = math.sqrt(15) + 1e-4
    expected = [-1 / of_all, 1 / of_all, 3 / of_all, -3 / of_all]
    assert group_advantages(scores, 2, "batch").tolist() == pytest.approx(expected, rel=1e-6)


def test_a_group_that_scores_all_the_same_has_no_advantage():
    assert group_advantages(T([2.0, 2.0, 2.0, 0.0, 0.0, 3.0]), 3, "group")[:3].tolist() == [0.0, 0.0, 0.0]


ESTIMATORS = {
    "group": lambda scores, size: group_advantages(scores, size, "group"),
    "batch": lambda scores, size: group_advantages(scores, size, "batch"),
    "none": lambda scores, size: group_advantages(scores, size, "none"),
    "gdpo": lambda scores, size: gdpo_advantages(scores[None], scores.new_ones(1), size),
    "two of gdpo": lambda scores, size: gdpo_advantages(
        torch.stack([scores, 3 * scores]), scores.new_tensor([0.3, 0.7]), size
    ),
    "rloo": rloo_advantages,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("score", [0.1, 0.35, 0.7, 1.1, 1000.3, -3e-7])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_equal_scores_have_no_advantage_at_all(estimator, score, dtype):
    """The mean of eight times 0.7 is not 0.7 in float32, and what is left over was divided by a spread of as much."""
    for size in range(2, 17):
        equal = torch.full((size,), score, dtype=dtype)
        found = ESTIMATORS[estimator](torch.cat([equal, equal]), size)
        assert found.tolist() == [0.0] * (2 * size), size
        # beside a group that differs
        other = torch.arange(size).to(dtype) + 0.5
        found = ESTIMATORS[estimator](torch.cat([equal, other]), size)
        assert found[:size].tolist() == [0.0] * size, size
        assert found[size:].any() and found.dtype == dtype


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_scores_that_differ_by_rounding_alone_are_equal_and_those_that_differ_by_more_are_not(estimator):
    noise = 1 + T([0.0, 3e-7, -2e-7, 5e-7])
    assert ESTIMATORS[estimator](noise * 5.3, 4).tolist() == [0.0] * 4
    assert ESTIMATORS[estimator](noise * -1000.3, 4).tolist() == [0.0] * 4
    assert (ESTIMATORS[estimator](T([1000.3, 1000.31, 1000.3, 1000.31]), 4).abs() > 4e-3).all()


def test_large_scores_that_differ_by_little_keep_their_digits():
    scores = T([1000.3] * 7 + [1000.31])
    step = scores[7].item() - 1000.2999877929688  # the floats nearest to 1000.31 and 1000.3
    expected = [-step / 8] * 7 + [step * 7 / 8]
    assert group_advantages(scores, 8, "none").tolist() == pytest.approx(expected, rel=1e-6)


def test_a_score_that_does_not_apply_is_left_out_of_its_group():
    # the mean of 1 and 5 is 3; nan has no advantage
    assert group_advantages(T([1.0, NAN, 5.0]), 3, "none").tolist() == [-2.0, 0.0, 2.0]
    # the others' mean: 5 for 1, 1 for 5
    assert rloo_advantages(T([1.0, NAN, 5.0]), 3).tolist() == [-4.0, 0.0, 4.0]


def test_rloo_compares_with_the_mean_of_the_others():
    # others of 1: (2 + 6) / 2 = 4; of 2: 3.5; of 6: 1.5
    assert rloo_advantages(T([1.0, 2.0, 6.0]), 3).tolist() == [-3.0, -1.5, 4.5]


def test_gdpo_standardises_each_reward_by_itself_then_the_sum():
    # one group: rewards differ a thousandfold in scale but rank alike reversed; weights 2 and 1
    scores, weights = T([[0.0, 1.0], [1000.0, 0.0]]), T([2.0, 1.0])
    # each standardised: ∓.5/√.5 = ∓.7071 and ±.7071; sum: 2·(−.7071) + .7071 = −.7071, and +.7071
    # over the batch: mean 0, spread √(2·.5) = 1
    assert gdpo_advantages(scores, weights, 2).tolist() == pytest.approx([-0.7071, 0.7071], abs=5e-4)
    # summed first, the large one would have drowned the small one
    assert group_advantages(weights @ scores, 2, "none")[0] > 0


def test_gdpo_leaves_out_rewards_that_do_not_apply():
    scores = T([[0.0, 1.0, 0.0, NAN], [NAN, NAN, NAN, NAN]])
    found = gdpo_advantages(scores, T([1.0, 1.0]), 2)
    assert found[3] == 0.0 and found[1] > 0 > found[0]


def test_spread_is_bessels_and_zero_for_one_score():
    assert nan_std(T([1.0, 3.0, NAN])).item() == pytest.approx(math.sqrt(2))
    assert nan_std(T([[1.0, 3.0], [5.0, NAN]]), 1).flatten().tolist() == pytest.approx([math.sqrt(2), 0.0])


def test_the_loss_without_beta_is_the_clipped_surrogate():
    logprobs, old, advantages = T([math.log(1.5), math.log(0.5)]), T([0.0, 0.0]), T([2.0, -3.0])
    found = grpo_policy_loss(
        logprobs, old, T([9.0, 9.0]), advantages, clip_limits=LIMITS, beta=0.0, use_bias_correction_kl=True
    )
    assert found.tolist() == pytest.approx([-1.3 * 2.0, 0.8 * 3.0])


@pytest.mark.parametrize("corrected, factor", [(True, 1.25), (False, 1.0)])
def test_the_kl_is_k3_times_beta_and_the_ratio_when_corrected(corrected, factor):
    # ratio 1.25, reference / policy = 2: k3 = 2 − 1 − ln 2 = .306853
    logprobs = T([math.log(0.25)])
    found = grpo_policy_loss(
        logprobs,
        T([math.log(0.2)]),
        T([math.log(0.5)]),
        T([0.0]),
        clip_limits=LIMITS,
        beta=0.1,
        use_bias_correction_kl=corrected,
    )
    assert found.item() == pytest.approx(0.1 * 0.306853 * factor, rel=1e-5)


def test_the_corrected_gradient_is_that_of_the_kl_and_the_plain_one_is_not():
    """Summed over the policy's probabilities, as an expectation over its samples."""
    logits = T([0.3, -0.2, 1.0], dtype=torch.float64, requires_grad=True)
    ref = T([0.1, 0.9, -0.5], dtype=torch.float64).log_softmax(0)
    logprobs = logits.log_softmax(0)
    kl = (logprobs.exp() * (logprobs - ref)).sum()
    (of_kl,) = torch.autograd.grad(kl, logits, retain_graph=True)

    def gradient(corrected: bool):
        loss = grpo_policy_loss(
            logprobs,
            logprobs.detach(),
            ref,
            torch.zeros(3, dtype=torch.float64),
            clip_limits=LIMITS,
            beta=1.0,
            use_bias_correction_kl=corrected,
        )
        return torch.autograd.grad((logprobs.detach().exp() * loss).sum(), logits, retain_graph=True)[0]

    torch.testing.assert_close(gradient(True), of_kl, rtol=1e-10, atol=1e-12)
    # without it: ∇ of E_π[k3] at fixed samples is −E_π[(ref/π − 1)∇ log π] = ∇ KL(ref ‖ π)
    reverse = (ref.exp() * (ref - logprobs)).sum()
    (of_reverse,) = torch.autograd.grad(reverse, logits, retain_graph=True)
    torch.testing.assert_close(gradient(False), of_reverse, rtol=1e-10, atol=1e-12)
    assert (of_kl - of_reverse).abs().max() > 0.05


MASK = T([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    "loss_type, expected",
    [
        ("grpo", [[1 / 6, 1 / 6, 1 / 6], [1 / 2, 0, 0]]),
        ("bnpo", [[1 / 4, 1 / 4, 1 / 4], [1 / 4, 0, 0]]),
        ("dapo", [[1 / 5, 1 / 5, 1 / 5], [1 / 5, 0, 0]]),
        ("dr_grpo", [[1 / 20, 1 / 20, 1 / 20], [1 / 20, 0, 0]]),
    ],
)
def test_token_weights_by_hand(loss_type, expected):
    found = token_weights(MASK, loss_type, rollout_tokens=5, limit=10)
    torch.testing.assert_close(found, T(expected, dtype=torch.float32))


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo", "dr_grpo"])
def test_nothing_to_learn_from_weighs_nothing(loss_type):
    assert token_weights(torch.zeros(2, 3), loss_type, 0, 10).tolist() == [[0.0] * 3] * 2


def test_the_upper_limit_of_the_clip_is_apart_from_the_lower():
    ratios = T([1.25, 1.5, 0.9, 0.5]).log()
    found = ppo_policy_loss(ratios, torch.zeros(4), T([1.0, 1.0, -1.0, -1.0]), *LIMITS)
    assert found.tolist() == pytest.approx([-1.25, -1.3, 0.9, 0.8])

"""What is logged of a rollout, worked out by hand; and that every name of it is declared."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import tensor as T

from easyrlhf.online.metrics import (
    correlation,
    evaluation_metrics,
    readable_prompt,
    repetition,
    rollout_metrics,
    sample_rows,
)
from easyrlhf.online.ppo import estimate_ppo
from easyrlhf.report.metrics import metric


@pytest.mark.parametrize(
    "ids, expected",
    [
        ([1, 2, 3, 4, 1, 2, 3, 4], 0.2),  # 1234 2341 3412 4123 1234: one of five was there before
        ([7] * 8, 0.8),  # five times the same
        ([1, 2, 3, 4, 5], 0.0),
        ([1, 2, 3], 0.0),  # no 4-gram
        ([], 0.0),
    ],
)
def test_repetition_by_hand(ids, expected):
    assert repetition(ids) == pytest.approx(expected)


def test_repetition_of_pairs():
    assert repetition([1, 2, 1, 2], n=2) == pytest.approx(1 / 3)  # 12 21 12


@pytest.mark.parametrize(
    "y, expected",
    [
        ([2.0, 4.0, 6.0], 1.0),
        ([6.0, 4.0, 2.0], -1.0),
        ([3.0, 1.0, 2.0], -0.5),  # deviations -1 0 1 and 1 -1 0: -1 / (√2 √2)
    ],
)
def test_correlation_by_hand(y, expected):
    assert correlation(T([1.0, 2.0, 3.0]), T(y)) == pytest.approx(expected)


def test_correlation_with_a_constant_is_not_a_number():
    assert math.isnan(correlation(T([1.0, 2.0]), T([5.0, 5.0])))


def test_metrics_of_a_rollout_by_hand(hand_rollout, ppo_config):
    rollout = estimate_ppo(hand_rollout, ppo_config(gamma=1.0, lam=0.5), kl_coef=0.1)
    found = rollout_metrics(rollout, kl_coef=0.1)
    expected = {
        "objective/kl": 0.25,  # KL of the completions -.5 and 1
        "objective/entropy": 4.0,  # -log p of the completions 6 and 2
        "objective/non_score_reward": -0.025,
        "objective/rlhf_reward": 1.475,  # 1.5 - 0.1 · 0.25
        "objective/scores": 1.5,
        "policy/entropy_avg": 3.0,  # 1 … 5, over tokens
        # R - V = .1 .3 .6 .4 1: variance .0936; R = .6 .8 1.1 1.4 2: mean 1.18, squares sum to 1.208: variance .2416
        "value/explained_variance": 1 - 0.0936 / 0.2416,
        "val/num_eos_tokens": 1,
        "kl_coef": 0.1,
        "length/prompt_mean": 1.5,
        "length/completion_mean": 2.5,
        "length/completion_max": 3,
        "health/eos_rate": 0.5,
        "health/repetition": 0.0,
        "health/reward_length_correlation": -1.0,
        "health/sampler_mismatch": 0.06,  # (.1 + .2) / 5
        "reward/good/mean": 2.0,
        "reward/good/std": 1.0,
        "reward/bad/mean": 0.0,
        "reward/bad/std": 0.0,
    }
    assert found == pytest.approx(expected, abs=1e-5)
    for name in found:
        metric(name)  # KeyError for a name that is not declared


def test_evaluation_weighs_every_completion_alike(hand_rollout):
    lone = hand_rollout.take([1])
    found = evaluation_metrics([hand_rollout, lone])
    # completions of scores 1 2 2, KL -.5 1 1, lengths 3 2 2, one finished
    expected = {"eval/scores": 5 / 3, "eval/kl": 0.5, "eval/length": 7 / 3, "eval/eos_rate": 1 / 3}
    expected |= {"eval/reward/good/mean": 7 / 3, "eval/reward/bad/mean": 0.0}  # 1 3 3, each reward by itself
    assert found == pytest.approx(expected)
    for name in found:
        metric(name)


def test_samples_show_score_kl_and_their_total(hand_rollout):
    rows = sample_rows(hand_rollout, 0.1, decode=lambda ids: "-".join(map(str, ids)))
    assert [row["completion"] for row in rows] == ["11-12-13", "14-15"]
    assert [row["prompt"] for row in rows] == ["first", "second"]
    assert [row["kl"] for row in rows] == pytest.approx([-0.5, 1.0])
    assert [row["total"] for row in rows] == pytest.approx([1.05, 1.9])  # 1 + 0.05, 2 - 0.1
    assert [row["finished"] for row in rows] == [True, False]
    json.dumps(rows)


def test_a_prompt_of_turns_is_readable():
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    assert readable_prompt(turns) == "system: Be brief.\nuser: Hello"


def test_padding_is_not_part_of_any_metric(hand_rollout, ppo_config):
    wider = {
        name: torch.cat([getattr(hand_rollout, name), torch.full((2, 2), 1e6)], dim=1)
        for name in ("sampler_logprobs", "old_logprobs", "ref_logprobs", "entropies", "values")
    }
    zeros = torch.zeros(2, 2)
    padded = hand_rollout.__class__(
        **{
            **vars(hand_rollout),
            **wider,
            "completion_ids": torch.cat([hand_rollout.completion_ids, zeros.long()], dim=1),
            "completion_mask": torch.cat([hand_rollout.completion_mask, zeros], dim=1),
        }
    )
    narrow, wide = (rollout_metrics(estimate_ppo(r, ppo_config(), 0.1), 0.1) for r in (hand_rollout, padded))
    assert wide == pytest.approx(narrow)


def test_without_a_reference_samples_and_evaluations_have_no_kl(hand_rollout):
    rollout = replace(hand_rollout, ref_logprobs=None)
    found = evaluation_metrics([rollout])
    assert found.keys() - {"eval/reward/good/mean", "eval/reward/bad/mean"} == {
        "eval/scores", "eval/length", "eval/eos_rate"
    }  # fmt: skip
    rows = sample_rows(rollout, 0.0, str)
    assert [(row["score"], row["kl"], row["total"]) for row in rows] == [(1.0, None, 1.0), (2.0, None, 2.0)]

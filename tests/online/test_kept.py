"""rollouts.jsonl: the numbers that the update used, worked out by hand."""

from dataclasses import replace

import pytest
import torch
from torch import tensor as T

from easyrlhf.online.grpo import estimate_grpo
from easyrlhf.online.ppo import estimate_ppo
from easyrlhf.online.rollout_log import kept_rows


def letters(ids: list[int]) -> str:
    return "".join(chr(ord("a") + i - 11) for i in ids)


def test_rows_hold_what_ppo_used(hand_rollout, ppo_config, prompt_row):
    """KL -.5 and 1; rewards less 0.1 KL: (-.05, 0, 1.1) and (-.1, 2); values .5 and 1; gamma 1, lambda .5.

    Deltas -.05, 0, .6 and -.1, 1; advantages .1, .3, .6 and .4, 1: mean .48.
    """
    sources = {"good": T([1.0, 3.0]), "bad": T([torch.nan, 0.25])}
    rollout = replace(hand_rollout, source_scores=sources, extra=[{"f/word": "red"}, {"f/word": None}])
    rollout.rows[1] = prompt_row([7], [{"role": "user", "content": "Hi"}], answer=4)
    estimated = estimate_ppo(rollout, ppo_config(gamma=1.0, lam=0.5), kl_coef=0.1)
    first, second = kept_rows(estimated, 0.1, 8, letters, with_ids=True)
    assert first == {
        "place": 0,
        "prompt": "first",
        "completion": "abc",
        "finished": True,
        "length": 3,
        "rewards": {"good": 1.0, "bad": None},
        "score": 1.0,
        "kl": pytest.approx(-0.5),
        "total": pytest.approx(1.05),
        "advantage": first["advantage"],
        "columns": {},
        "extra": {"f/word": "red"},
        "prompt_ids": [5, 6],
        "completion_ids": [11, 12, 13],
    }
    assert second["prompt"] == [{"role": "user", "content": "Hi"}]
    assert (second["completion"], second["finished"], second["length"], second["columns"]) == (
        "de",
        False,
        2,
        {"answer": 4},
    )
    assert (second["rewards"], second["score"]) == ({"good": 3.0, "bad": 0.25}, 2.0)
    assert (second["kl"], second["total"]) == (pytest.approx(1.0), pytest.approx(1.9))
    # standardised advantages: over 3 and 2 tokens
    advantages = T([0.1, 0.3, 0.6, 0.4, 1.0], dtype=torch.float64)
    by_hand = (advantages - 0.48) / advantages.std(correction=0)
    assert first["advantage"] == pytest.approx(by_hand[:3].mean().item(), rel=1e-5)
    assert second["advantage"] == pytest.approx(by_hand[3:].mean().item(), rel=1e-5)


def test_the_advantage_of_a_group_is_exactly_that_of_each_of_its_tokens(hand_rollout, grpo_config):
    config = grpo_config(num_generations=2, batch_size=2)
    estimated = estimate_grpo(replace(hand_rollout, scores=T([0.1, 0.7])), config, 0.0)
    rows = kept_rows(estimated, 0.0, 2, letters, with_ids=False)
    assert [row["advantage"] for row in rows] == estimated.advantages[:, 0].tolist()
    assert [row["total"] for row in rows] == [row["score"] for row in rows]
    assert "completion_ids" not in rows[0]


@pytest.mark.parametrize(
    "count, places", [(0, []), (1, [0]), (2, [0, 4]), (3, [0, 2, 5]), (8, list(range(8))), (99, list(range(8)))]
)
def test_rows_are_spread_over_the_rollout(hand_rollout, ppo_config, count, places):
    estimated = estimate_ppo(hand_rollout, ppo_config(), 0.0).take([0, 1, 0, 1, 0, 1, 0, 1])
    assert [row["place"] for row in kept_rows(estimated, 0.0, count, letters, False)] == places


def test_a_completion_that_no_reward_applies_to_has_no_score_and_no_advantage(hand_rollout, grpo_config):
    unscored = replace(hand_rollout, scores=T([0.5, torch.nan]), source_scores={"good": T([0.5, torch.nan])})
    _, second = kept_rows(estimate_grpo(unscored, grpo_config(batch_size=2), 0.0), 0.0, 2, letters, False)
    assert (second["rewards"], second["score"], second["total"]) == ({"good": None}, None, None)
    assert second["advantage"] == 0

"""The bookkeeping of the online loop: which prompts, which random numbers, when to look."""

from types import SimpleNamespace

import pytest

from easyrlhf.offline.loop import is_due
from easyrlhf.online.loop import (
    collect_or_save,
    evaluate,
    next_kl_coef,
    planned_steps,
    prompt_batch,
    samples_due,
)
from easyrlhf.rewards.sources import RewardError


def batches_of(config, count: int, steps: int) -> tuple[list[int], list[tuple]]:
    """Prompts and keys of so many steps over `count` numbered prompts."""
    prompts, keys = [], []
    for step in range(steps):
        rows, new_keys = prompt_batch(list(range(count)), config, step)
        assert len(rows) == config.batch_size
        prompts += rows
        keys += new_keys
    return prompts, keys


@pytest.mark.parametrize("count, size", [(6, 4), (4, 4), (3, 8), (7, 2)])
def test_every_prompt_is_visited_once_an_epoch_and_every_key_is_new(ppo_config, count, size):
    prompts, keys = batches_of(ppo_config(batch_size=size), count, steps=12)
    for start in range(0, len(prompts) - count + 1, count):
        assert sorted(prompts[start : start + count]) == list(range(count))
    assert len(set(keys)) == len(keys) == 12 * size


def test_a_step_has_the_same_prompts_and_keys_whenever_it_is_asked_for(ppo_config):
    config = ppo_config(batch_size=4)
    assert prompt_batch(list(range(6)), config, 7) == prompt_batch(list(range(6)), config, 7)
    prompts, keys = batches_of(config, 30, 7)
    other_prompts, other_keys = batches_of(ppo_config(batch_size=4, seed=1), 30, 7)
    assert prompts != other_prompts
    assert not set(keys) & set(other_keys)


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, 13),  # 100 prompts in batches of 8
        ({"epochs": 3}, 38),  # 300
        ({"total_episodes": 17}, 3),
        ({"max_steps": 5}, 5),
        ({"total_episodes": 17, "max_steps": 5}, 3),
    ],
)
def test_planned_steps_by_hand(ppo_config, settings, expected):
    assert planned_steps(ppo_config(batch_size=8, **settings), 100) == expected


@pytest.mark.parametrize("total, times, expected", [(10, 10, 10), (100, 10, 10), (7, 3, 3), (3, 10, 3), (5, 0, 0)])
def test_samples_are_shown_so_often_and_after_the_last_step(total, times, expected):
    due = [step for step in range(1, total + 1) if samples_due(step, total, times)]
    assert len(due) == expected
    assert not times or due[-1] == total


@pytest.mark.parametrize(
    "every, total, expected",
    [
        (3, 10, [3, 6, 9]),
        (0, 10, []),
        (None, 40, [4, 8, 12, 16, 20, 24, 28, 32, 36, 40]),  # a tenth of the run
        (None, 5, [1, 2, 3, 4, 5]),
    ],
)
def test_is_due_by_hand(every, total, expected):
    assert [step for step in range(1, total + 1) if is_due(step, every, total)] == expected


def test_the_kl_coefficient_stays_without_a_target_and_adapts_with_one(ppo_config):
    assert next_kl_coef(ppo_config(), 0.05, 100.0) == 0.05
    # 50 % above target counts as 20 %: 1 + 0.2 · 64 / 10,000
    config = ppo_config(kl_target=6.0, batch_size=64, kl_coef=77.0)
    assert next_kl_coef(config, 0.05, 9.0) == pytest.approx(0.05 * 1.00128, rel=1e-12)
    assert next_kl_coef(config, 0.05, 0.0) == pytest.approx(0.05 * 0.99872, rel=1e-12)


def test_evaluation_asks_every_prompt_with_the_same_keys_each_time(ppo_config, hand_rollout):
    asked = []

    def collect(run, rows, keys, timer):
        asked.append((rows, keys))
        return hand_rollout.take([0] * len(rows))

    run = SimpleNamespace(config=ppo_config(batch_size=2, seed=9))
    online = SimpleNamespace(collect=collect)
    metrics = evaluate(run, online, ["a", "b", "c"])
    first = list(asked)
    asked.clear()
    evaluate(run, online, ["a", "b", "c"])
    assert asked == first
    assert [rows for rows, _ in first] == [["a", "b"], ["c"]]
    keys = [key for _, batch in first for key in batch]
    assert len(set(keys)) == 3
    assert not set(keys) & set(prompt_batch(list(range(50)), run.config, 0)[1])  # not those of training
    assert metrics["eval/scores"] == 1.0


def test_a_reward_that_fails_saves_the_run_first(ppo_config):
    saved = []

    def fails(*_):
        raise RewardError("boom")

    run = SimpleNamespace(save=lambda engines, **state: saved.append((engines, state)))
    online = SimpleNamespace(collect=fails, engines={"policy": 1})
    with pytest.raises(RewardError, match="boom"):
        collect_or_save(run, online, [], [], None, kl_coef=0.3)
    assert saved == [({"policy": 1}, {"kl_coef": 0.3})]

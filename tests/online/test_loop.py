"""The bookkeeping of the online loop: which prompts, which random numbers, when to look."""

from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

from easyrlhf.engine import processes
from easyrlhf.errors import InputError, RunError, RunStopped
from easyrlhf.online import batch, evaluate
from easyrlhf.online.batch import begin_draws, collect_batch, prompt_batch
from easyrlhf.online.evaluate import evaluate_prompts, samples_due
from easyrlhf.online.loop import describe_training, next_kl_coef, nothing_lost, planned_rollouts
from easyrlhf.online.methods import method_of
from easyrlhf.online.rollout import Rollout, concatenate
from easyrlhf.online.state import LoopState
from easyrlhf.rewards.batch import RewardError, TrainerState
from easyrlhf.run.step_end import is_due

WIDE = ["completion_ids", "completion_mask", "sampler_logprobs", "old_logprobs", "ref_logprobs", "entropies", "values"]


def batches_of(config, count: int, steps: int) -> tuple[list[int], list[tuple]]:
    """Prompts and keys of so many steps over `count` numbered prompts."""
    prompts, keys = [], []
    for step in range(steps):
        rows, new_keys = prompt_batch(list(range(count)), config, step * config.batch_size)
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


@pytest.mark.parametrize("size, generations", [(4, 1), (2, 1), (6, 2), (16, 2)])
def test_prompts_in_the_order_of_the_files(grpo_config, size, generations):
    config = grpo_config(advantage="reinforce++", batch_size=size, num_generations=generations, shuffle_prompts=False)
    prompts, keys = batches_of(config, 5, steps=4)
    assert prompts == [number // generations % 5 for number in range(4 * size)]
    assert len(set(keys)) == 4 * size
    # a run that goes on after 3 steps asks what it would have asked
    assert prompt_batch(list(range(5)), config, 3 * size)[0] == prompts[3 * size :]


@pytest.mark.parametrize(
    "settings, asked",
    [
        ({"beta": 0.1}, (True, True)),
        ({}, (False, False)),
        ({"measure_kl": "step"}, (True, True)),
        ({"measure_kl": "eval"}, (False, True)),
        ({"measure_kl": "never"}, (False, False)),
        ({"lora_r": 4}, (False, True)),
    ],
)
def test_the_reference_is_asked_when_the_settings_say(grpo_config, monkeypatch, settings, asked):
    """(in a step's rollout, in evaluations and samples)."""
    found, config = [], grpo_config(**settings, batch_size=4)

    def noted(*_, with_reference: bool) -> Rollout:
        found.append(with_reference)
        return rollout_of([[1.0, 2.0], [3.0, 5.0]])

    for module in (batch, evaluate):
        monkeypatch.setattr(module, "collect", noted)
    run, online = SimpleNamespace(config=config), SimpleNamespace(method=method_of(config), player=None)
    collect_batch(run, online, [1, 2], None, LoopState(kl_coef=0.0))
    evaluate.look(run, online, [1, 2], [], None)
    assert tuple(found) == asked


def test_reward_functions_may_know_how_long_training_is(grpo_config):
    state = TrainerState()
    describe_training(state, grpo_config(batch_size=8, num_generations=4), 10, 40)  # 2 prompts a step, of 40
    state.global_step = 5
    assert (state.max_steps, state.train_batch_size, state.num_train_epochs, state.epoch) == (10, 8, 0.5, 0.25)


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, 13),  # 100 prompts in batches of 8
        ({"epochs": 3}, 38),  # 300
        ({"total_episodes": 17}, 3),
        ({"max_steps": 5}, 5),
        ({"total_episodes": 17, "max_steps": 5}, 3),
        ({"num_generations": 4}, 50),  # 400 completions
    ],
)
def test_planned_steps_by_hand(ppo_config, settings, expected):
    assert planned_rollouts(ppo_config(batch_size=8, **settings), 100) == expected


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
    assert next_kl_coef(ppo_config(), 0.05, 1, 100.0) == 0.05
    # 50 % above target counts as 20 %: 1 + 0.2 · 64 / 10,000
    config = ppo_config(kl_target=6.0, batch_size=64, kl_coef=77.0)
    assert next_kl_coef(config, 0.05, 1, 9.0) == pytest.approx(0.05 * 1.00128, rel=1e-12)
    assert next_kl_coef(config, 0.05, 1, 0.0) == pytest.approx(0.05 * 0.99872, rel=1e-12)
    # while the value model warms up alone, the policy has not moved and its KL says nothing
    warming = ppo_config(kl_target=6.0, batch_size=64, value_warmup_steps=2, kl_coef=0.05)
    assert next_kl_coef(warming, 0.05, 2, 9.0) == 0.05
    assert next_kl_coef(warming, 0.05, 3, 9.0) > 0.05


def test_evaluation_asks_every_prompt_with_the_same_keys_each_time(ppo_config, hand_rollout, monkeypatch):
    asked = []

    def noted(run, online, rows, keys, timer, with_reference):
        asked.append((rows, keys))
        return hand_rollout.take([0] * len(rows))

    monkeypatch.setattr(evaluate, "collect", noted)
    run = SimpleNamespace(config=ppo_config(batch_size=2, seed=9))
    online = SimpleNamespace(player=None, rewards=SimpleNamespace(take_logged=lambda: {"f/tools": 2.0}))
    metrics = evaluate_prompts(run, online, ["a", "b", "c"])
    first = list(asked)
    asked.clear()
    evaluate_prompts(run, online, ["a", "b", "c"])
    assert asked == first
    assert [rows for rows, _ in first] == [["a", "b"], ["c"]]
    keys = [key for _, batch in first for key in batch]
    assert len(set(keys)) == 3
    assert not set(keys) & set(prompt_batch(list(range(50)), run.config, 0)[1])  # not those of training
    assert (metrics["eval/scores"], metrics["eval/reward/f/tools"]) == (1.0, 2.0)


@pytest.mark.parametrize("error", [RewardError("boom"), IndexError("boom"), MemoryError("boom"), OSError("boom")])
def test_whatever_fails_the_run_is_kept_first_and_the_error_goes_on(error):
    kept = []
    with pytest.raises(type(error), match="boom"), nothing_lost(lambda: kept.append(1)):
        raise error
    assert kept == [1]


def test_bad_input_is_a_failure_once_the_run_has_begun():
    kept = []
    with pytest.raises(RunError, match="no such turn") as found, nothing_lost(lambda: kept.append(1)):
        raise InputError("no such turn")
    assert found.value.exit_code == 1 and kept == [1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RunStopped("a second time; stopped at once")])
def test_who_asks_for_the_end_at_once_gets_it(error):
    with pytest.raises(type(error)), nothing_lost(lambda: pytest.fail("was saved")):
        raise error


def test_a_failure_that_could_not_be_saved_says_both():
    def keep():
        raise RunError("the disk is full")

    with pytest.raises(RunError, match="boom\nAnd the run could not be saved: the disk is full"), nothing_lost(keep):
        raise RewardError("boom")
    with pytest.raises(MemoryError, match="boom"), nothing_lost(keep):
        raise MemoryError("boom")


def test_one_process_of_several_saves_only_what_all_of_them_do(monkeypatch):
    kept = []
    monkeypatch.setattr(processes, "size", lambda: 2)
    with pytest.raises(MemoryError), nothing_lost(lambda: kept.append(1)):
        raise MemoryError
    assert not kept
    with pytest.raises(RewardError), nothing_lost(lambda: kept.append(1)):
        raise RewardError("told to all")
    assert kept == [1]


@pytest.mark.parametrize("ahead, step, numbers", [(1, 0, [4, 8]), (3, 0, [4, 8, 12, 16]), (3, 8, [4, 8]), (3, 9, [4])])
def test_draws_are_begun_with_what_will_be_asked_for_and_none_beyond_the_end(grpo_config, ahead, step, numbers):
    config = grpo_config(batch_size=4, rollout="vllm", vllm_mode="server", rollout_ahead=ahead)
    prompts, begun = [{"prompt_ids": [number]} for number in range(3)], []
    sampler = SimpleNamespace(begin=lambda *asked: begun.append(asked), has_begun=lambda key: key == (42, 0, 12))
    state = SimpleNamespace(max_steps=10)
    online = SimpleNamespace(player=None, sampler=sampler, rewards=SimpleNamespace(state=state))
    begin_draws(SimpleNamespace(config=config, step=step), online, prompts, 4)
    for asked, first in zip(begun, [number for number in numbers if number != 12], strict=True):
        rows, keys = prompt_batch(prompts, config, first)
        assert asked == ([row["prompt_ids"] for row in rows], keys)
        assert keys == [(42, 0, number) for number in range(first, first + 4)]


# --- groups


def rollout_of(groups: list[list[float]]) -> Rollout:
    """A rollout whose completions have these scores; each completion's one token tells it apart."""
    scores = torch.tensor([score for group in groups for score in group])
    ids = torch.arange(len(scores))[:, None]
    some = torch.ones(len(scores), 1)
    return Rollout(
        rows=[{"prompt_ids": [int(number)]} for number in ids],
        completion_ids=ids,
        completion_mask=some,
        finished=some[:, 0].bool(),
        sampler_logprobs=some,
        old_logprobs=some,
        ref_logprobs=some,
        entropies=some,
        values=None,
        scores=scores,
        source_scores={"only": scores},
    )


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_every_prompt_stands_for_a_group_and_every_completion_has_its_own_key(grpo_config, ppo_config, method):
    config = grpo_config(batch_size=6) if method == "grpo" else ppo_config(batch_size=6, num_generations=2)
    rows, keys = prompt_batch(list(range(5)), config, 6)
    assert rows[::2] == rows[1::2] and len(set(rows)) == 3
    assert keys == [(42, 0, number) for number in range(6, 12)]
    first, _ = prompt_batch(list(range(5)), config, 0)
    assert len(set(first) | set(rows)) == 5  # five prompts in two rollouts of three: one epoch and one more


def collected(config, *rollouts, kl_coef: float = 0.0) -> tuple[Rollout, dict, LoopState, list]:
    """What collect_batch makes of rollouts that come one after the other."""
    coming, asked, at = list(rollouts), [], LoopState(kl_coef)

    def given(run, online, rows, keys, timer, with_reference):
        asked.append(keys)
        return coming.pop(0)

    with patch.object(batch, "collect", given):
        run, online = SimpleNamespace(config=config), SimpleNamespace(method=method_of(config), player=None)
        rollout, metrics = collect_batch(run, online, [1, 2], None, at)
    return rollout, metrics, at, asked


def test_equal_groups_are_counted(grpo_config):
    rollout, metrics, at, _ = collected(grpo_config(), rollout_of([[1.0, 1.0], [1.0, 2.0]]))
    assert metrics == {"health/equal_groups": 0.5}
    assert len(rollout) == 4 and at.drawn == 4


def test_ppo_does_not_count_equal_groups(ppo_config):
    """A value model tells what each completion earned beyond what was expected, whatever its siblings did."""
    _, metrics, at, _ = collected(ppo_config(batch_size=4, num_generations=2), rollout_of([[1.0, 1.0], [1.0, 2.0]]))
    assert metrics == {} and at.drawn == 4


def test_dynamic_sampling_fills_the_batch_with_groups_that_differ(grpo_config):
    first = rollout_of([[1.0, 1.0], [1.0, 2.0]])
    second = rollout_of([[0.0, 0.0], [5.0, 6.0]])
    rollout, metrics, at, asked = collected(grpo_config(dynamic_sampling=3), first, second)
    assert rollout.scores.tolist() == [1.0, 2.0, 5.0, 6.0]
    assert rollout.completion_ids.flatten().tolist() == [2, 3, 2, 3]  # whole groups, in the order they came
    assert rollout.source_scores["only"].tolist() == [1.0, 2.0, 5.0, 6.0]
    assert metrics == {"health/equal_groups": 0.0}
    assert at.drawn == 8 and asked[1] == [(42, 0, number) for number in range(4, 8)]


def test_dynamic_sampling_gives_up_after_so_many_rollouts_and_keeps_the_size(grpo_config):
    dull = [rollout_of([[1.0, 1.0], [2.0, 2.0]]) for _ in range(3)]
    rollout, metrics, at, _ = collected(grpo_config(dynamic_sampling=2), *dull)
    assert len(rollout) == 4 and at.drawn == 12
    assert metrics == {"health/equal_groups": 1.0}


def test_a_group_differs_in_gdpo_where_any_reward_does(grpo_config):
    """[2, 0, 2, 0] + 2 · [0, 1, 0, 1] is 2 for all, yet each reward by itself, and so their sum, tells them apart."""
    one = replace(
        rollout_of([[2.0, 2.0, 2.0, 2.0]]),
        source_scores={"a": torch.tensor([2.0, 0.0, 2.0, 0.0]), "b": torch.tensor([0.0, 1.0, 0.0, 1.0])},
    )
    known = {"num_generations": 4, "reward_funcs": "a.py:b", "reward_weights": "1,2", "dynamic_sampling": 3}
    gdpo = grpo_config(**known, multi_objective_aggregation="normalize_then_sum")
    _, metrics, at, _ = collected(gdpo, one)
    assert metrics == {"health/equal_groups": 0.0} and at.drawn == 4
    _, metrics, at, _ = collected(grpo_config(**known), one, one, one, one)
    assert metrics == {"health/equal_groups": 1.0} and at.drawn == 16


def test_groups_are_no_matter_where_completions_are_compared_with_the_batch(grpo_config):
    known = {"advantage": "reinforce++", "dynamic_sampling": 3}
    groups = [[30.0, 30.0], [17.0, 17.0]]
    rollout, metrics, at, _ = collected(grpo_config(**known), rollout_of(groups))
    assert metrics == {} and at.drawn == 4 and rollout.scores.tolist() == [30.0, 30.0, 17.0, 17.0]
    # the mean of the batch, 2, is no reason to sample a group again
    assert collected(grpo_config(**known), rollout_of([[1.0, 3.0], [2.0, 2.0]]))[2].drawn == 4
    # a batch that scores all the same is replaced by one that does not
    dull, better = rollout_of([[1.0, 1.0], [1.0, 1.0]]), rollout_of([[2.0, 2.0], [3.0, 3.0]])
    rollout, metrics, at, _ = collected(grpo_config(**known), dull, dull, better)
    assert metrics == {} and at.drawn == 12 and rollout.scores.tolist() == [2.0, 2.0, 3.0, 3.0]


def test_completions_of_one_score_differ_in_rloo_by_their_kl(grpo_config):
    one = replace(rollout_of([[1.0, 1.0], [1.0, 1.0]]), ref_logprobs=torch.tensor([[0.5], [0.7], [0.5], [0.5]]))
    config = grpo_config(advantage="rloo", beta=0.1)
    _, metrics, _, _ = collected(config, one, kl_coef=0.1)
    assert metrics == {"health/equal_groups": 0.5}


def test_a_price_of_kl_in_the_loss_makes_no_group_of_equal_scores_worth_keeping(grpo_config):
    """DAPO, verl and TRL look at the rewards alone too: the KL is learned from whatever group there is."""
    config = grpo_config(beta=0.1, dynamic_sampling=3)
    first, second = rollout_of([[1.0, 1.0], [1.0, 2.0]]), rollout_of([[5.0, 6.0], [0.0, 0.0]])
    rollout, metrics, at, _ = collected(config, first, second)
    assert metrics == {"health/equal_groups": 0.0} and at.drawn == 8
    assert rollout.scores.tolist() == [1.0, 2.0, 5.0, 6.0]


def test_groups_whose_only_good_answer_was_cut_off_are_equal_when_that_is_masked(grpo_config):
    one = rollout_of([[0.0, 1.0], [1.0, 1.0]])
    cut = replace(one, finished=torch.tensor([False, False, True, True]))
    _, metrics, _, _ = collected(grpo_config(mask_truncated_completions=True), cut)
    assert metrics == {"health/equal_groups": 1.0}
    assert collected(grpo_config(), cut)[1] == {"health/equal_groups": 0.5}


def test_rollouts_of_different_widths_are_padded_when_they_are_joined(hand_rollout):
    logged = replace(hand_rollout, extra=[{"f/x": 1}, {"f/x": 2}])
    narrow = logged.take([1])
    narrow = replace(narrow, **{name: getattr(narrow, name)[:, :2] for name in WIDE})
    both = concatenate(logged, narrow)
    assert both.completions() == [[11, 12, 13], [14, 15], [14, 15]]
    assert both.completion_mask.shape == both.values.shape == (3, 3)
    assert both.lengths.tolist() == [3, 2, 2] and both.scores.tolist() == [1.0, 2.0, 2.0]
    assert both.rows[2] == hand_rollout.rows[1]
    assert both.extra == [{"f/x": 1}, {"f/x": 2}, {"f/x": 2}]
    assert concatenate(hand_rollout, hand_rollout).extra is None

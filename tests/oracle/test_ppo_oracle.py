"""PPO through its command against the enumerated optimum of a small world."""

from pathlib import Path

import numpy as np
import pytest

from easyrlhf.cli.stages import ppo_train as main
from easyrlhf.userfile import load_module

oracle = load_module(Path(__file__).parent / "world.py")


@pytest.mark.parametrize("length", [1, 3])
def test_policies_reach_the_best_one(tmp_path, length):
    world, beta = oracle.make_world(tmp_path, length, seed=0), 0.3
    with pytest.raises(SystemExit) as end:
        main(oracle.ppo_flags(world, tmp_path / "ppo", beta=beta, seed=0))
    assert end.value.code == 0
    found = oracle.judge(world, "ppo", tmp_path / "ppo", beta)
    assert found.kl_to_target <= oracle.kl_bound(length, beta)
    assert found.missing_gain <= 0.01
    assert found.value_error <= 0.05
    # J(π*) − J(π) = β·KL(π‖π*) holds for every policy: it proves the enumeration, not the training
    assert found.best_objective - found.objective == pytest.approx(beta * found.kl_to_target, abs=1e-9)


@pytest.mark.parametrize("length", [1, 3])
@pytest.mark.parametrize("reward", ["additive", "unstructured"])
def test_the_untrained_policy_is_far_from_the_best_one(tmp_path, length, reward):
    world = oracle.make_world(tmp_path, length, seed=0, reward=reward)
    found = oracle.judge(world, "ppo", world.policy, 0.3)
    assert found.kl_to_target > 0.5
    assert found.missing_gain == 1


@pytest.mark.parametrize("reward", ["additive", "unstructured"])
def test_the_reward_file_gives_the_scores_of_the_world(tmp_path, reward):
    world = oracle.make_world(tmp_path, length=2, seed=0, reward=reward)
    score = getattr(load_module(world.folder / "rewards.py"), reward)
    completions = [list(y) for y in world.completions]
    found = [score([word] * len(completions), completion_ids=completions) for word in oracle.WORDS]
    np.testing.assert_allclose(found, world.scores)


def test_the_value_of_the_first_state_is_the_objective(tmp_path):
    world, beta = oracle.make_world(tmp_path, length=3, seed=0), 0.3
    policy = oracle.make_world(tmp_path / "other", length=3, seed=1).policy
    reference_tokens, policy_tokens = world.token_logprobs(world.policy), world.token_logprobs(policy)
    values = oracle.state_values(world, policy_tokens, beta * (policy_tokens - reference_tokens))
    assert values[:, :, 0].std(axis=1) == pytest.approx(0)  # one state, whatever comes after it
    assert values[:, 0, 0].mean() == pytest.approx(oracle.judge(world, "ppo", policy, beta).objective)


def test_the_error_of_values_counts_every_visited_state(tmp_path):
    world = oracle.make_world(tmp_path, length=3, seed=0)
    policy = world.token_logprobs(world.policy).sum(2)
    errors = np.full((*policy.shape, world.length), 0.1)
    errors[:, 0, 1:] = 1e6  # the first completion is EOS alone: it visits no other state
    assert oracle.visited_error(world, policy, errors) == pytest.approx(0.1)

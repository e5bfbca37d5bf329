"""PPO through its command against the enumerated optimum of a small world."""

from pathlib import Path

import pytest

from easyrlhf.cli.ppo import main
from easyrlhf.rewards.sources import load_module

oracle = load_module(Path(__file__).parent / "world.py")


def test_one_token_policies_reach_the_best_one(tmp_path):
    world = oracle.make_world(tmp_path, length=1, seed=0)
    beta = 0.3
    with pytest.raises(SystemExit) as end:
        main(oracle.ppo_flags(world, tmp_path / "ppo", beta=beta, seed=0))
    assert end.value.code == 0
    found = oracle.judge(world, tmp_path / "ppo", beta, oracle.missing_eos_penalty(world))
    assert found.kl_to_best <= 0.005
    assert found.missing_gain <= 0.01
    # J(π*) − J(π) = β·KL(π‖π*) holds for every policy: it proves the enumeration, not the training
    assert found.best_objective - found.objective == pytest.approx(beta * found.kl_to_best, abs=1e-9)


def test_the_untrained_policy_is_far_from_the_best_one(tmp_path):
    world = oracle.make_world(tmp_path, length=1, seed=0)
    assert oracle.judge(world, world.policy, 0.3, 0.0).kl_to_best > 0.5

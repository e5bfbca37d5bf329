"""DPO, IPO and the reward model through their commands against what they must learn of a small world."""

from pathlib import Path

import numpy as np
import pytest

from easyrlhf.cli.stages import dpo_train as dpo_main
from easyrlhf.cli.stages import ipo_train as ipo_main
from easyrlhf.cli.stages import rm_train as rm_main
from easyrlhf.userfile import load_module

oracle = load_module(Path(__file__).parent / "world.py")
COMMANDS = {"dpo": dpo_main, "ipo": ipo_main}


@pytest.fixture(autouse=True)
def reference_cache(monkeypatch, tmp_path):
    """Reference log-probabilities out of the user's home."""
    monkeypatch.setenv("EASYRLHF_CACHE", str(tmp_path / "cache"))


def run(main, flags: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(flags)
    assert end.value.code == 0


@pytest.mark.slow
@pytest.mark.parametrize("method", list(COMMANDS))
def test_the_policy_is_the_one_that_its_comparisons_ask_for(method, tmp_path):
    world, beta = oracle.make_world(tmp_path, length=3, seed=0), 1.0
    run(COMMANDS[method], oracle.METHODS[method].flags(world, tmp_path / method, beta, 0))
    untrained = oracle.judge(world, method, world.policy, beta).kl_to_target
    found = oracle.judge(world, method, tmp_path / method, beta).kl_to_target
    assert found <= min(oracle.METHODS[method].bound, untrained / 20)


@pytest.mark.slow
def test_the_reward_model_finds_the_rewards_behind_the_comparisons(tmp_path):
    world = oracle.make_world(tmp_path, length=3, seed=0)
    run(rm_main, oracle.rm_flags(world, tmp_path / "rm", 0))
    learned = centred(world.learned_scores(tmp_path / "rm", oracle.DPO_COMPLETIONS))
    true = centred(world.scores_of(oracle.DPO_COMPLETIONS))
    slope = (learned * true).sum() / (true**2).sum()
    assert slope == pytest.approx(1, abs=0.05)
    assert np.corrcoef(ranks(learned), ranks(true))[0, 1] >= 0.99  # Spearman's


def centred(scores: np.ndarray) -> np.ndarray:
    """Scores less their mean over completions: comparisons say nothing of a prompt's own level.  [P, n]"""
    return scores - scores.mean(1, keepdims=True)


def ranks(scores: np.ndarray) -> np.ndarray:
    """Rank of every score among all.  [P·n]"""
    return scores.ravel().argsort().argsort()

"""Two processes whose rewards or rollouts do not wait for one another: the same numbers, and nothing drawn twice."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from easyrlhf.rollout.vllm_sampler import seed_of
from easyrlhf.userfile import load_module

equal = load_module(Path(__file__).parent / "test_equal.py")
vllm = load_module(Path(__file__).parents[1] / "rollout" / "vllm_server.py")
forks, train, numbers = equal.forks, equal.train, equal.numbers
pytestmark = [pytest.mark.distributed, pytest.mark.slow]

# Three prompts of three completions: the second is sampled by both processes, and asked about by the second.
SIZE, EACH, STEPS = 9, 3, 4
FAILED = r"exit codes \[(1, 1|1, -9|-9, 1)\]"  # who is first to end has the other killed
CODE = """
import os, pathlib

HERE = pathlib.Path(__file__).parent
calls = 0


def score(completions, log_metric, **_):
    global calls
    calls += 1
    texts = [messages[0]["content"] for messages in completions]
    for text in texts:
        log_metric("length", len(text))
    with (HERE / f"calls-{os.getpid()}").open("a") as file:
        print(len(texts), file=file)
    if (HERE / "fails").exists() and calls == 3:
        raise ValueError("as asked")
    return [float(len(text) % 2) for text in texts]
"""


@pytest.fixture
def settings(data, chain, tmp_path) -> dict:
    """A GRPO run of four rollouts in two processes, whose rewards are a function's."""
    (tmp_path / "rewards.py").write_text(CODE)
    rewards = {"reward_funcs": f"{tmp_path}/rewards.py:score", "num_sample_generations": 0, "save_steps": 0}
    sampled = {"max_completion_length": 6, "num_generations": EACH, "batch_size": SIZE, "total_episodes": STEPS * SIZE}
    run = {"stage": "grpo", "model": chain.sft, "train_data": data.prompts, "deepspeed": "none", "devices": "cpu:2"}
    common = {name: value for name, value in equal.COMMON.items() if name != "eval_steps"}
    return common | rewards | sampled | run


def assert_same(one: Path, other: Path) -> None:
    """Numbers and weights are the same."""
    assert numbers(one) == numbers(other)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)


def test_two_processes_ask_early_about_the_prompts_that_they_sample(train, settings, tmp_path):
    train(tmp_path / "without", **settings)
    for file in tmp_path.glob("calls-*"):
        file.unlink()
    train(tmp_path / "streamed", **settings, stream_rewards=True)
    assert_same(tmp_path / "streamed", tmp_path / "without")
    calls = sorted((file.read_text().split() for file in tmp_path.glob("calls-*")), key=len)
    assert calls == [["3"] * STEPS, ["3"] * 2 * STEPS]


def test_a_reward_that_fails_in_one_process_ends_both_and_the_run_goes_on(train, settings, tmp_path):
    train(tmp_path / "whole", **settings)
    (tmp_path / "fails").touch()
    with pytest.raises(AssertionError, match=FAILED):
        train(tmp_path / "run", **settings, stream_rewards=True)
    (tmp_path / "fails").unlink()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-1"]
    train(tmp_path / "run", **settings, stream_rewards=True)
    assert_same(tmp_path / "run", tmp_path / "whole")


def seeds(*servers) -> list[int]:
    """Those of all samples that servers were asked for."""
    return sorted(body["seed"] for server in servers for body in server.asked("/v1/completions"))


def test_two_processes_begin_draws_ahead_and_go_on_with_them(train, settings, chain, tmp_path):
    settings |= {"rollout": "vllm", "vllm_mode": "server", "rollout_ahead": 2, "dynamic_sampling": 1}
    with vllm.sampling(chain.sft).served() as server:
        train(tmp_path / "whole", **settings, vllm_port=server.port)
    drawn = numbers(tmp_path / "whole")[-1]["episode"]
    assert seeds(server) == sorted(seed_of((42, 0, number)) for number in range(drawn))  # each once
    staleness = [row["health/staleness"] for row in numbers(tmp_path / "whole")]
    assert staleness[0] == 0 and 0 < max(staleness) <= 2
    (tmp_path / "fails").touch()
    with vllm.sampling(chain.sft).served() as first, pytest.raises(AssertionError, match=FAILED):
        train(tmp_path / "run", **settings, vllm_port=first.port)
    (tmp_path / "fails").unlink()
    with vllm.sampling(chain.sft).served() as second:
        train(tmp_path / "run", **settings, vllm_port=second.port)
    assert 0 < len(seeds(second)) < len(seeds(server))
    assert seeds(first, second) == seeds(server)  # what had begun is not drawn again
    assert_same(tmp_path / "run", tmp_path / "whole")

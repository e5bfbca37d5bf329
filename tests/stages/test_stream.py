"""Runs whose rewards are asked for while others are sampled: the same numbers as without, and no end that differs."""

import json
import re
import threading
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from easyrlhf.config import GRPOConfig, PPOConfig
from easyrlhf.errors import RunError, SettingError
from easyrlhf.stages.online import train_grpo, train_ppo
from easyrlhf.userfile import load_module

vllm = load_module(Path(__file__).parents[1] / "rollout" / "vllm_server.py")
http = load_module(Path(__file__).parents[1] / "rewards" / "http_server.py")
SIZE, LONG = 8, 10  # seconds, of what never takes as long
CODE = """
import pathlib

HERE = pathlib.Path(__file__).parent


def even(prompts, completions, log_metric, log_extra, step, **_):
    texts = [messages[0]["content"] for messages in completions]
    for text in texts:
        log_metric("length", len(text))
    log_extra("step", [step] * len(texts))
    if (HERE / "fails").exists() and step == 2:
        raise ValueError("as asked")
    (HERE / f"called-{step}").touch()
    return [float(len(text) % 2) for text in texts]


async def vowels(completions, **_):
    return [None if len(str(m)) % 5 == 0 else sum(map(str(m).count, "aeiou")) / 10 for m in completions]
"""


@pytest.fixture
def code(tmp_path):
    """The file of reward functions."""
    (tmp_path / "rewards.py").write_text(CODE)
    return tmp_path / "rewards.py"


@pytest.fixture
def train(data, chain, small_grpo, small_ppo, tmp_path, code, monkeypatch):
    """train(folder, **settings) -> the folder of a run of 3 rollouts, by PPO where value_learning_rate is."""
    for name in ("plot_run", "write_report"):
        monkeypatch.setattr(f"easyrlhf.stages.lifecycle.{name}", lambda *_, **__: None)

    def run(name: str, **settings) -> Path:
        ppo = "value_learning_rate" in settings
        known = dict(small_ppo if ppo else small_grpo) | {"model": chain.sft, "train_data": data.prompts}
        known |= {"reward_model": chain.rm, "reward_funcs": f"{code}:even,{code}:vowels", "save_steps": 0}
        known |= {"total_episodes": 24, "output_dir": str(tmp_path / name), "num_sample_generations": 2} | settings
        return Path(train_ppo(PPOConfig(**known)) if ppo else train_grpo(GRPOConfig(**known)))

    return run


def numbers(folder: Path) -> list[list[dict]]:
    """All rows of a run's logs without what depends on the clock."""
    files = [folder / f"{name}.jsonl" for name in ("metrics", "rollouts", "samples")]
    rows = [[json.loads(line) for line in file.read_text().splitlines()] for file in files if file.exists()]
    clock = ("time/", "tokens_per_second")
    return [[{k: v for k, v in row.items() if not k.startswith(clock)} for row in file] for file in rows]


def assert_same(one: Path, other: Path) -> None:
    """All logs and weights are the same."""
    assert numbers(one) == numbers(other)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)


CASES = {
    "grpo, dynamic, evaluated": {"dynamic_sampling": 2, "valid": True, "beta": 0.1},
    "ppo, soft": {"value_learning_rate": 1e-3, "local_rollout_forward_batch_size": 3},
    "rloo, replay, reroll": {
        "advantage": "rloo",
        "replay_buffer_size": 6,
        "reroll_max_groups": 2,
        "reroll_start_fraction": 0.0,
        "soft_punish_cache": 2,
    },
    "grpo, workers": {"reward_workers": 2, "stop": "a"},
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_has_the_numbers_of_one_without(train, data, case):
    settings = dict(CASES[case])
    if settings.pop("valid", False):
        settings |= {"valid_data": data.prompts, "eval_steps": 2}
    assert_same(train("streamed", stream_rewards=True, **settings), train("without", **settings))


def test_a_server_of_rewards_is_asked_about_each_prompt_and_one_backbone_gives_the_same(train, chain):
    def lengths(request: dict) -> http.Answer:
        return http.scores(*(len(messages[0]["content"]) for messages in request["completions"]))

    settings = {"lora_r": 4, "learning_rate": 1e-2, "reward_model": None, "share_backbone": True, "beta": 0.1}
    with http.reward_server(lengths) as (url, requests):
        streamed = train("streamed", stream_rewards=True, reward_url=url, **settings)
        assert {len(request["completions"]) for request in requests if len(request["prompts"]) > 1} == {2}
        requests.clear()
        assert_same(streamed, train("without", reward_url=url, **settings))
        assert {len(request["completions"]) for request in requests} == {8}


def test_rewards_are_asked_for_while_a_vllm_server_samples(train, chain, code, monkeypatch):
    """The last completion of a rollout is not given before a function was called about another prompt."""
    lock, count, early = threading.Lock(), [0], []

    def last_waits(body: dict):
        with lock:
            count[0] += 1
            number = count[0]
        if number % SIZE == 0:
            end = time.monotonic() + LONG
            called = code.parent / f"called-{number // SIZE - 1}"
            while not called.exists() and time.monotonic() < end:
                time.sleep(0.01)
            early.append(called.exists())
        return sampling(body)

    settings = {"rollout": "vllm", "vllm_mode": "server", "num_sample_generations": 0}
    with vllm.sampling(chain.sft).served() as server:
        without = train("without", vllm_port=server.port, **settings)
    for file in code.parent.glob("called-*"):
        file.unlink()
    with vllm.sampling(chain.sft).served() as server:
        sampling, server.complete = server.complete, last_waits
        streamed = train("streamed", vllm_port=server.port, stream_rewards=True, **settings)
    assert early == [True] * 3
    assert_same(streamed, without)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_reward_that_fails_meanwhile_leaves_a_run_that_goes_on(train, code, workers):
    settings = {"reward_workers": workers, "stream_rewards": True}
    (code.parent / "fails").touch()
    with pytest.raises(RunError) as failure:
        train("run", **settings)
    assert re.match(
        r"reward function even raised ValueError: as asked .*\n  prompt: 'Say .*'\n  comp", str(failure.value)
    )
    (code.parent / "fails").unlink()
    assert_same(train("run", **settings), train("whole"))


SERVED = {"rollout": "vllm", "vllm_mode": "server"}
REFUSED = {
    "ahead": (SERVED | {"rollout_ahead": 1}, "with rollout_ahead completions are there, or nearly so"),
    "colocated": ({"rollout": "vllm"}, "a colocated vLLM gives all completions at once; use vllm_mode server"),
    "episodes": ({"environment": "e.py:E"}, "episodes of an environment are scored when all have been played"),
    "gym": ({"nemo_gym_url": "http://127.0.0.1:1"}, "episodes of an environment are scored when all have"),
    "model": ({"reward_funcs": None}, "a reward model reads all completions together, at the end; give reward_funcs"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("config", [PPOConfig, GRPOConfig])
def test_what_has_nothing_to_ask_early_is_refused(case, config):
    changed, message = REFUSED[case]
    known = {"model": "m", "reward_model": "rm", "reward_funcs": "f.py:f", "train_data": "x.jsonl", "batch_size": 8}
    with pytest.raises(SettingError, match=rf"stream_rewards true: {message}.*, or leave it out"):
        config(**known | changed, stream_rewards=True)

"""Runs whose rollouts are begun ahead: the same samples asked for once each, by weights as old as the settings say.

The vLLM server is one that samples with this package's own loop.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from easyrlhf.config import GRPOConfig, PPOConfig
from easyrlhf.errors import RunError, RunStopped
from easyrlhf.rollout.vllm_sampler import seed_of
from easyrlhf.stages.online import train_grpo, train_ppo
from easyrlhf.userfile import load_module

fake = load_module(Path(__file__).parents[1] / "rollout" / "vllm_server.py")
SIZE, STEPS = 8, 6
SAME, OTHER = 1e-5, 1e-4  # mismatch of log-probabilities that rounding explains, and that it does not
# A reward that tells few completions apart, and fails in one of its calls where a file says so.
CODE = """
import pathlib

TIMES = pathlib.Path(__file__).with_name("times")


def even(completions, **_):
    if TIMES.exists():
        left = int(TIMES.read_text()) - 1
        TIMES.write_text(str(left))
        if left == 0:
            raise ValueError("as asked")
    return [float(len(messages[0]["content"]) % 2) for messages in completions]
"""


@pytest.fixture
def train(data, chain, small_grpo, small_ppo, tmp_path, monkeypatch):
    """train(folder, server, **settings) -> the folder of a run of 6 rollouts, by PPO where value_learning_rate is."""
    for name in ("plot_run", "write_report"):
        monkeypatch.setattr(f"easyrlhf.stages.lifecycle.{name}", lambda *_, **__: None)
    (tmp_path / "rewards.py").write_text(CODE)

    def run(name: str, server, **settings) -> Path:
        ppo = "value_learning_rate" in settings
        known = dict(small_ppo if ppo else small_grpo) | {"model": chain.sft, "train_data": data.prompts}
        known |= {"reward_model": None, "reward_funcs": f"{tmp_path}/rewards.py:even", "save_steps": 0}
        known |= {"rollout": "vllm", "vllm_mode": "server", "vllm_port": server.port, "log_rollouts": SIZE}
        known |= {"output_dir": str(tmp_path / name), "num_sample_generations": 0} | settings
        return Path(train_ppo(PPOConfig(**known)) if ppo else train_grpo(GRPOConfig(**known)))

    return run


@pytest.fixture
def server(chain):
    """server() -> one that has the policy's first weights, as a context."""
    return lambda: fake.sampling(chain.sft).served()


def rows_of(folder: Path, file: str = "metrics.jsonl") -> list[dict]:
    rows = [json.loads(line) for line in (folder / file).read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "tokens_per_second"))} for row in rows]


def column(folder: Path, name: str) -> list[float]:
    return [row[name] for row in rows_of(folder)]


def seeds(*servers) -> list[int]:
    """Those of all samples that they were asked for."""
    return sorted(body["seed"] for server in servers for body in server.asked("/v1/completions"))


def seeds_of(count: int) -> list[int]:
    """Those of a run's first completions."""
    return sorted(seed_of((42, 0, number)) for number in range(count))


def test_each_draw_is_asked_for_once_and_is_as_old_as_the_queue_is_long(train, server):
    found = {}
    for ahead in (0, 1, 3):
        with server() as vllm:
            folder = train(f"{ahead}", vllm, rollout_ahead=ahead)
        assert seeds(vllm) == seeds_of(SIZE * STEPS)
        assert vllm.samples.taken == STEPS - ahead  # the last weights that anything is drawn with
        assert column(folder, "health/staleness") == [min(step, ahead) for step in range(STEPS)]
        mismatch = column(folder, "health/sampler_mismatch")
        assert all(one < SAME for one in mismatch[: None if not ahead else 1])
        assert (mismatch[-1] > OTHER) == (ahead > 0)
        found[ahead] = rows_of(folder, "rollouts.jsonl")
    for ahead in (1, 3):
        assert [row["prompt"] for row in found[ahead]] == [row["prompt"] for row in found[0]]
        assert [row["completion"] for row in found[ahead][:SIZE]] == [row["completion"] for row in found[0][:SIZE]]


def test_dynamic_sampling_takes_what_was_begun_and_wastes_nothing(train, server):
    with server() as vllm:
        folder = train("run", vllm, rollout_ahead=2, dynamic_sampling=2)
    drawn = column(folder, "episode")
    assert drawn[-1] > SIZE * STEPS  # more than a draw a step
    assert seeds(vllm) == seeds_of(drawn[-1])
    staleness = column(folder, "health/staleness")
    assert staleness[0] == 0 and staleness[1] > 0 and max(staleness) <= 2


SETTINGS = {
    "ppo": {"value_learning_rate": 1e-3, "rollout_ahead": 1},
    "grpo, dynamic": {"rollout_ahead": 3, "dynamic_sampling": 1, "beta": 0.1},
    "rloo, lora, replay": {
        "rollout_ahead": 2,
        "advantage": "rloo",
        "lora_r": 4,
        "share_backbone": True,
        "replay_buffer_size": 6,
    },
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("how", ["stopped", "failed"])
def test_a_run_that_ends_early_goes_on_with_what_it_had_begun(train, server, stop_after, tmp_path, settings, how):
    with server() as vllm:
        whole = train("whole", vllm, **settings)
    if how == "stopped":
        go_on = stop_after(3)
    else:  # with the fourth step's own draw in hand, which nothing was learned from yet
        calls = 5 if "dynamic_sampling" in settings else 4
        (tmp_path / "times").write_text(str(calls))
    with server() as first, pytest.raises(RunStopped if how == "stopped" else RunError):
        train("run", first, **settings)
    if how == "stopped":
        go_on()
    else:
        (tmp_path / "times").unlink()
    with server() as second:
        run = train("run", second, **settings)
    assert len(seeds(second)) < len(seeds(first))
    assert seeds(first, second) == seeds(vllm)  # what had begun is not drawn again
    assert rows_of(run) == rows_of(whole)
    for name, tensor in load_file(whole / "model.safetensors").items():
        assert torch.equal(tensor, load_file(run / "model.safetensors")[name]), name


def test_groups_that_are_learned_from_once_more_are_as_old_as_their_weights(train, server):
    with server() as vllm:
        folder = train("run", vllm, rollout_ahead=1, advantage="rloo", replay_buffer_size=6)
    rows = rows_of(folder)
    assert all(row["health/staleness"] == min(step, 1) for step, row in enumerate(rows) if not row["replay/used"])
    assert any(row["health/staleness"] > 1 for row in rows if row["replay/used"])


def test_a_run_that_branches_off_draws_anew(train, server, stop_after, tmp_path):
    go_on = stop_after(3)
    with server() as first, pytest.raises(RunStopped):
        train("run", first, rollout_ahead=2)
    go_on()
    with server() as second:
        resume = str(tmp_path / "run" / "checkpoints" / "step-3")
        branch = train("branch", second, rollout_ahead=2, resume=resume, max_completion_length=4)
    assert len(seeds(second)) == 3 * SIZE
    assert max(row["length"] for row in rows_of(branch, "rollouts.jsonl") if row["step"] > 3) <= 4

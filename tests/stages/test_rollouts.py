"""Online stages that sample with a vLLM server: here one that samples with this package's own loop.

It knows nothing but what a run hands over, so that its log-probabilities are the policy's only when the newest weights
have arrived.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer

from easyrlhf.cli.stages import grpo_train as grpo_main
from easyrlhf.cli.stages import ppo_train as ppo_main
from easyrlhf.config import PPOConfig, SFTConfig
from easyrlhf.data.render import Renderer
from easyrlhf.engine import processes
from easyrlhf.errors import InputError, SettingError
from easyrlhf.rollout import vllm_server as client
from easyrlhf.stages import samplers
from easyrlhf.stages.samplers import check_rollout
from easyrlhf.stages.sft import train_sft
from easyrlhf.userfile import load_module

fake = load_module(Path(__file__).parents[1] / "rollout" / "vllm_server.py")
CLOCK = ("time/", "tokens_per_second")
IMPORTANCE = {"health/importance_mean", "health/importance_capped"}
RATE = 1e-3  # moves the policy in a step, and does not ruin it
SAME, OTHER = 1e-5, 1e-4  # mismatch of log-probabilities that rounding explains, and that it does not


@pytest.fixture(autouse=True)
def short_looks(monkeypatch):
    """Between two looks at a server that is gone."""
    monkeypatch.setattr(client, "LOOK", 0.02)


@pytest.fixture
def vllm(chain):
    """vllm() -> a server that has begun with the policy's first weights; `samples` is what it samples with."""

    def make():
        return fake.sampling(chain.sft)

    return make


@pytest.fixture
def run(data, chain, small_ppo, small_grpo, capsys):
    """run(main, folder, port, **flags) -> (exit code, what went to stderr); 4 rollouts of 8."""

    def command(main, folder: Path, port: int | None, **flags) -> tuple[int, str]:
        settings = dict(small_ppo if main is ppo_main else small_grpo)
        settings |= {"model": chain.sft, "reward_model": chain.rm, "train_data": data.prompts, "output_dir": folder}
        settings |= {"total_episodes": 32, "num_sample_generations": 0, "save_steps": 4}
        if port is not None:
            settings |= {"rollout": "vllm", "vllm_mode": "server", "vllm_port": port, "vllm_timeout": 20}
        words = [word for name, value in (settings | flags).items() for word in (f"--{name}", str(value))]
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(words)
        return end.value.code, capsys.readouterr().err

    return command


def numbers(folder: Path) -> list[dict]:
    """The rows of metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(CLOCK)} for row in rows]


def mismatches(folder: Path) -> list[float]:
    """Of every step; a row of the evaluation before the first has none."""
    return [row["health/sampler_mismatch"] for row in numbers(folder) if row["step"]]


# --- whole runs


@pytest.mark.parametrize("main, lora_r", [(ppo_main, 0), (grpo_main, 0), (grpo_main, 4)])
def test_every_rollout_is_sampled_with_the_newest_weights(run, vllm, tmp_path, main, lora_r):
    with vllm().served() as server:
        code, errors = run(main, tmp_path / "run", server.port, lora_r=lora_r, learning_rate=RATE)
        assert code == 0, errors
    rows = numbers(tmp_path / "run")
    assert len(rows) == 4 and max(mismatches(tmp_path / "run")) < SAME
    assert server.samples.taken == 4 and server.samples.drawn == 32
    assert all(row["health/importance_mean"] == pytest.approx(1.0, abs=1e-4) for row in rows)
    assert all(row["health/importance_capped"] == 0.0 for row in rows)
    assert run(main, tmp_path / "hf", None, lora_r=lora_r, learning_rate=RATE)[0] == 0
    ours, theirs = (set().union(*numbers(tmp_path / name)) for name in ("run", "hf"))
    assert ours == theirs | IMPORTANCE | {"health/staleness"}
    assert not (tmp_path / "run" / "cache").exists()


@pytest.mark.parametrize("settings", [{"vllm_sync_interval": 2}, {"importance_correction": "off"}])
def test_weights_that_are_not_handed_over_show_in_the_mismatch(run, vllm, tmp_path, settings):
    with vllm().served() as server:
        assert run(ppo_main, tmp_path / "run", server.port, learning_rate=RATE, **settings)[0] == 0
    found = mismatches(tmp_path / "run")
    if "vllm_sync_interval" in settings:
        assert server.samples.taken == 2
        assert max(found[0], found[2]) < SAME and min(found[1], found[3]) > OTHER
    else:
        assert max(found) < SAME
        assert not IMPORTANCE & set().union(*numbers(tmp_path / "run"))


@pytest.mark.parametrize("main", [ppo_main, grpo_main])
def test_a_rollout_ahead_is_sampled_with_the_weights_of_one_update_ago(run, vllm, tmp_path, main):
    masked = {"off_policy_mask_threshold": 1e-6} if main is grpo_main else {}
    with vllm().served() as server:
        code, errors = run(main, tmp_path / "run", server.port, rollout_ahead=1, learning_rate=RATE, **masked)
        assert code == 0, errors
    rows, (first, *later) = numbers(tmp_path / "run"), mismatches(tmp_path / "run")
    assert first < SAME and min(later) > OTHER
    assert server.samples.drawn == 32  # each once
    assert all(abs(row["health/importance_mean"] - 1) > 1e-6 for row in rows[1:])
    assert all(0 <= row["health/importance_capped"] < 1 for row in rows)
    for row in rows:
        assert ("policy/off_policy_masked" in row) == bool(masked)
    assert not masked or any(0 < row["policy/off_policy_masked"] < 1 for row in rows)


def test_evaluations_between_steps_of_a_run_ahead_see_the_newest_weights(run, vllm, data, tmp_path):
    with vllm().served() as server:
        more = {"valid_data": data.prompts, "eval_steps": 1, "total_episodes": 16, "learning_rate": RATE}
        assert run(ppo_main, tmp_path / "run", server.port, rollout_ahead=1, **more)[0] == 0
    first, second = mismatches(tmp_path / "run")
    assert first < SAME and second > OTHER
    assert (server.samples.taken, server.samples.drawn) == (3, 16 + 3 * 48)  # before the first step, after each


TWICE = """
class Twice:
    def reset(self, word):
        self.word, self.said = word, []

    def respond(self, text):
        self.said.append(text)
        return "Once more." if len(self.said) == 1 else None

    def get_reward(self):
        return sum(self.word[:1] in text for text in self.said) / 2
"""


@pytest.mark.parametrize("main, ahead", [(ppo_main, 0), (grpo_main, 1)], ids=["ppo", "grpo-ahead"])
def test_turns_of_episodes_are_sampled_one_request_each_and_weighted(run, vllm, tmp_path, main, ahead):
    acting = tmp_path / "acting.py"
    acting.write_text(TWICE)
    limit = "response_length" if main is ppo_main else "max_completion_length"
    more = {"environment": f"{acting}:Twice", "max_length": 100, limit: 40, "log_rollouts": 8, "rollout_ahead": ahead}
    with vllm().served() as server:
        code, errors = run(main, tmp_path / "run", server.port, learning_rate=RATE, **more)
        assert code == 0, errors
    rows, (first, *later) = numbers(tmp_path / "run"), mismatches(tmp_path / "run")
    kept = [json.loads(line) for line in (tmp_path / "run" / "rollouts.jsonl").read_text().splitlines()]
    assert server.samples.drawn == sum(row["turns"] for row in kept) > 32
    assert server.samples.taken == 4 - ahead  # the second rollout is begun before the first update
    # each sampled token with the probability it was drawn with, as of the weights it was drawn by, and no other token
    assert first < SAME
    assert min(later) > OTHER if ahead else max(later) < SAME
    for row in rows[:1] if ahead else rows:
        assert row["health/importance_mean"] == pytest.approx(1.0, abs=1e-4)
    assert all(0 < row["env/sampled"] < 1 for row in rows)


# --- a server that goes away


@pytest.fixture
def clock_runs_fast(monkeypatch):
    """The 20 seconds that a server is waited for are over in half a second."""
    clock = SimpleNamespace(monotonic=lambda: 40 * time.monotonic(), sleep=time.sleep)
    monkeypatch.setattr(client, "time", clock)


def at_request(server, number: int, what: Callable[[], None]) -> None:
    """Let something happen instead of the answer to the completion with this number, from 1."""

    def complete(body):
        if len(server.asked("/v1/completions")) == number:
            what()
            raise ConnectionError
        return server.samples(body)

    server.complete = complete


def test_a_server_that_goes_away_or_is_started_anew_costs_no_number(run, vllm, tmp_path, clock_runs_fast):
    with vllm().served() as server:
        assert run(ppo_main, tmp_path / "whole", server.port)[0] == 0
    folder, first = tmp_path / "run", vllm()
    at_request(first, 17, lambda: setattr(first, "dead", True))  # in the third rollout
    with first.served():
        code, errors = run(ppo_main, folder, first.port)
    assert code == 1 and "Traceback" not in errors
    assert f"the vLLM server at http://127.0.0.1:{first.port} did not answer for 20 seconds" in errors
    assert f"Safe on disk: {folder}/checkpoints/step-2. The same command continues the run." in errors
    assert len(numbers(folder)) == 2
    second = vllm()

    def forget():
        second.version, second.samples.lm = "as it was started", vllm().samples.lm

    at_request(second, 9, forget)  # in its second rollout, the run's last
    with second.served():
        code, errors = run(ppo_main, folder, second.port)  # where it is may change
    assert code == 0, errors
    assert second.samples.taken == 3
    assert numbers(folder) == numbers(tmp_path / "whole")


def test_a_server_that_goes_away_as_the_next_rollout_is_begun_saves_the_run(run, vllm, tmp_path, clock_runs_fast):
    folder, server = tmp_path / "run", vllm()

    def take(where):
        if server.samples.taken == 2:  # for the fourth rollout, at the beginning of the third update
            server.dead = True
            raise ConnectionError
        server.samples.take(where)

    server.take = take
    with server.served():
        code, errors = run(ppo_main, folder, server.port, rollout_ahead=1)
    assert code == 1 and "did not answer for 20 seconds" in errors
    assert server.samples.drawn == 24
    assert f"Safe on disk: {folder}/checkpoints/step-2" in errors
    with vllm().served() as second:
        assert run(ppo_main, folder, second.port, rollout_ahead=1)[0] == 0
    assert [row["step"] for row in numbers(folder)] == [1, 2, 3, 4]


def test_a_server_with_too_little_room_is_refused_before_the_run(run, vllm, tmp_path):
    server = vllm()
    server.room = 45  # of 40 tokens for the prompt and 6 for the completion
    with server.served():
        code, errors = run(ppo_main, tmp_path / "run", server.port)
    assert code == 2 and "takes 45 tokens, but prompts and completions have up to 46" in errors
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


# --- checks


@pytest.fixture
def settings(data, chain, tmp_path):
    """settings(**changed) -> PPOConfig that asks for vLLM in the run's processes."""

    def make(**changed) -> PPOConfig:
        known = {"model": chain.sft, "reward_model": chain.rm, "train_data": data.prompts, "rollout": "vllm"}
        return PPOConfig(**known | {"output_dir": str(tmp_path / "out"), "devices": "cpu"} | changed)

    return make


@pytest.fixture
def renderer(chain) -> Renderer:
    return Renderer(AutoTokenizer.from_pretrained(chain.sft))


@pytest.fixture
def installed(monkeypatch):
    """As if vllm were there."""
    monkeypatch.setattr(samplers, "find_spec", lambda name: name)


def test_the_own_loop_needs_none_of_it(settings, renderer, monkeypatch):
    monkeypatch.setattr(samplers, "find_spec", lambda name: None)
    check_rollout(settings(rollout="hf"), renderer)


def test_settings_that_vllm_can_follow_pass(settings, renderer, installed, monkeypatch):
    check_rollout(settings(), renderer)
    check_rollout(settings(lora_r=512), renderer)
    monkeypatch.setattr(processes, "size", lambda: 4)
    check_rollout(settings(vllm_tensor_parallel_size=2), renderer)


def test_vllm_that_is_not_installed_is_named_with_the_ways_out(settings, renderer, monkeypatch):
    monkeypatch.setattr(samplers, "find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        check_rollout(settings(), renderer)
    for words in ("--rollout vllm", "not installed", "pip install 'easyrlhf[vllm]'", "--vllm_mode server", "hf"):
        assert words in str(caught.value)
    check_rollout(settings(vllm_mode="server"), renderer)  # it is elsewhere


def test_a_size_that_does_not_divide_the_processes_is_named(settings, renderer, installed, monkeypatch):
    monkeypatch.setattr(processes, "size", lambda: 4)
    message = r"--vllm_tensor_parallel_size 3: does not divide the 4 processes of this run; use a divisor, or --vllm_m"
    with pytest.raises(InputError, match=message):
        check_rollout(settings(vllm_tensor_parallel_size=3), renderer)
    check_rollout(settings(vllm_tensor_parallel_size=3, vllm_mode="server"), renderer)  # the server's own devices


def test_a_rank_that_vllm_has_no_room_for_is_named(settings, renderer, installed):
    with pytest.raises(InputError, match=r"--lora_r 600: .*rank 512"):
        check_rollout(settings(lora_r=600), renderer)


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_more_tokens_than_embeddings_are_named_with_the_way_out(settings, renderer, installed, mode, model_folder):
    count = len(renderer.tokenizer)
    folder = model_folder("small", vocab=count - 3)
    with pytest.raises(InputError) as caught:
        check_rollout(settings(model=str(folder), vllm_mode=mode), renderer)
    assert f"--model {folder}: its tokenizer has {count} tokens and its weights {count - 3} embeddings" in str(
        caught.value
    )
    assert f"easyrlhf export {folder} --to full" in str(caught.value) and "--rollout hf" in str(caught.value)


def test_an_adapter_folder_is_named_with_the_way_out(data, chain, settings, renderer, installed, small, tmp_path):
    adapter = tmp_path / "adapter"
    more = {"lora_r": 4, "max_steps": 1}
    train_sft(SFTConfig(model=chain.init, train_data=data.sft, output_dir=str(adapter), **small | more))
    adapter = adapter if (adapter / "adapter_config.json").exists() else adapter / "adapter"
    with pytest.raises(InputError) as caught:
        check_rollout(settings(model=str(adapter), vllm_mode="server"), renderer)
    assert f"--model {adapter}: is an adapter alone" in str(caught.value)
    assert f"easyrlhf export {adapter} --to full" in str(caught.value) and "--rollout hf" in str(caught.value)


@pytest.mark.parametrize("changed", [{"rollout": "hf"}, {"rollout": "hf", "vllm_mode": "server"}, {}])
def test_a_rollout_ahead_needs_a_server(settings, changed):
    with pytest.raises(SettingError, match=r"rollout_ahead 1: .*rollout vllm and vllm_mode server, or leave it at 0"):
        settings(rollout_ahead=1, **changed)
    assert settings(rollout_ahead=1, vllm_mode="server").rollout_ahead == 1


@pytest.mark.parametrize("changed", [{"rollout": "hf", "vllm_mode": "server"}, {"vllm_mode": "colocate"}])
def test_nccl_needs_a_server(settings, changed):
    message = r"vllm_weight_transfer nccl: is a way to a server; give rollout vllm and vllm_mode server, or .* files"
    with pytest.raises(SettingError, match=message) as caught:
        settings(vllm_weight_transfer="nccl", **changed)
    assert caught.value.setting == "vllm_weight_transfer"


def test_nccl_is_not_for_adapters(settings):
    with pytest.raises(SettingError, match=r"vllm_weight_transfer nccl: .*lora_r 8 .*folder; leave it at files"):
        settings(vllm_weight_transfer="nccl", vllm_mode="server", lora_r=8)


def test_nccl_needs_vllm_and_a_gpu_here(settings, renderer, installed, monkeypatch):
    config = settings(vllm_weight_transfer="nccl", vllm_mode="server")
    with pytest.raises(InputError, match=r"nccl: .*the run is on the CPU; use --vllm_weight_transfer files"):
        check_rollout(config, renderer)
    monkeypatch.setattr(samplers, "pick_device", lambda devices: torch.device("cuda", 0))
    check_rollout(config, renderer)
    monkeypatch.setattr(samplers, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"nccl: vllm is not installed here.*pip install 'easyrlhf\[vllm\]', or .* files"
    ):
        check_rollout(config, renderer)


@pytest.mark.parametrize("way, sends", [("nccl", True), ("files", False)])
def test_the_server_is_told_the_way_of_the_weights(settings, renderer, monkeypatch, tmp_path, way, sends):
    monkeypatch.setattr(samplers.VLLMServer, "check", lambda server, length: None)
    run = SimpleNamespace(config=settings(vllm_weight_transfer=way, vllm_mode="server").resolved().with_lengths(None))
    run.cache, run.device = tmp_path, torch.device("cuda", 3)
    server = samplers.make_backend(run, renderer, SimpleNamespace(warn=print))
    assert server.nccl == (run.device if sends else None)
    server.close()

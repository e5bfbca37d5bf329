"""easyrlhf vllm_serve: the words it hands to vLLM for the file of a run, and what it refuses before."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from easyrlhf.cli import vllm_serve as cli
from easyrlhf.config import GRPOConfig, PPOConfig
from easyrlhf.tools import vllm_serve as tool
from easyrlhf.tools.vllm_serve import serve_command


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """As if vllm were there."""
    monkeypatch.setattr(tool, "find_spec", lambda name: name)


@pytest.fixture
def on_cpu(monkeypatch):
    """As if there were no GPU."""
    monkeypatch.setattr(tool, "pick_device", lambda devices: torch.device("cpu"))


@pytest.fixture
def executed(monkeypatch, on_cpu) -> list[tuple]:
    """What would have taken this process's place: (program, words, environment)."""
    calls = []
    monkeypatch.setattr(os, "execve", lambda *call: calls.append(call))
    return calls


def run(*words: str) -> Result:
    return CliRunner().invoke(cli.command, list(words), prog_name="easyrlhf vllm_serve")


def file_of(folder: Path, text: str) -> str:
    """A settings file."""
    (folder / "run.yaml").write_text(text)
    return str(folder / "run.yaml")


def options(words: list[str]) -> dict[str, str | bool]:
    """The flags behind `vllm serve MODEL`, each with its value; True for a switch."""
    found: dict[str, str | bool] = {}
    for word in words[words.index("serve") + 2 :]:
        if word.startswith("--"):
            name = word
            found[name] = True
        else:
            assert found[name] is True
            found[name] = word
    return found


COMMON = {
    "--host": "127.0.0.1",
    "--port": "8000",
    "--tensor-parallel-size": "1",
    "--gpu-memory-utilization": "0.3",
    "--generation-config": "vllm",
    "--logprobs-mode": "processed_logprobs",
}


def ppo(**changed) -> PPOConfig:
    return PPOConfig(train_data="x.jsonl", **changed).with_lengths(None)


def test_a_run_of_ppo_on_the_cpu(on_cpu):
    words = serve_command(ppo(max_prompt_length=40, response_length=6), "outputs/sft")
    assert words[0] == sys.executable
    start = words.index("-m")
    assert words[start : start + 4] == ["-m", "vllm.entrypoints.cli.main", "serve", "outputs/sft"]
    expected = {"--dtype": "float32", "--max-model-len": "46"}
    expected |= {"--enforce-eager": True, "--no-enable-chunked-prefill": True}
    assert options(words) == COMMON | expected


def test_a_run_of_grpo_with_places_of_its_own_on_a_gpu(monkeypatch):
    monkeypatch.setattr(tool, "pick_device", lambda devices: torch.device("cuda"))
    place = {"vllm_host": "10.0.0.7", "vllm_port": 8001, "vllm_tensor_parallel_size": 2}
    config = GRPOConfig(
        train_data="x.jsonl",
        max_prompt_length=100,
        max_completion_length=50,
        precision="bf16",
        vllm_gpu_memory_utilization=0.9,
        trust_remote_code=True,
        **place,
    )
    assert options(serve_command(config, "m")) == COMMON | {
        "--host": "10.0.0.7",
        "--port": "8001",
        "--tensor-parallel-size": "2",
        "--gpu-memory-utilization": "0.9",
        "--dtype": "bfloat16",
        "--max-model-len": "150",
        "--trust-remote-code": True,
    }


@pytest.mark.parametrize("r, room", [(4, "8"), (16, "16"), (100, "128")])
def test_an_adapter_gets_its_room(on_cpu, r, room):
    found = options(serve_command(ppo(lora_r=r), "m"))
    assert found["--enable-lora"] is True
    assert (found["--max-loras"], found["--max-lora-rank"]) == ("1", room)
    assert "--enable-lora" not in options(serve_command(ppo(), "m"))


def test_weights_by_nccl_need_a_server_that_waits_for_them(on_cpu):
    found = options(serve_command(ppo(rollout="vllm", vllm_mode="server", vllm_weight_transfer="nccl"), "m"))
    assert json.loads(found["--weight-transfer-config"]) == {"backend": "nccl"}
    assert "--weight-transfer-config" not in options(serve_command(ppo(), "m"))


# --- the command


def test_the_process_becomes_the_server_which_may_be_given_weights(executed, model_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MARK", "kept")
    folder = model_folder()
    text = f"model: {folder}\ntrain_data: x.jsonl\nreward_model: rm\nresponse_length: 60\nmax_prompt_length: 40\n"
    done = run(file_of(tmp_path, text + "vllm_port: 8002\n"), "--vllm_gpu_memory_utilization", "0.8")
    assert done.exit_code == 0, done.output
    ((program, words, environment),) = executed
    assert program == words[0] == sys.executable
    assert str(folder) == words[words.index("serve") + 1]
    found = options(words)
    assert (found["--max-model-len"], found["--port"], found["--gpu-memory-utilization"]) == ("100", "8002", "0.8")
    assert environment["VLLM_SERVER_DEV_MODE"] == environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert environment["MARK"] == "kept"
    assert "VLLM_SERVER_DEV_MODE" not in os.environ


def test_flags_beat_the_file(executed, model_folder, tmp_path):
    folder = model_folder("other")
    file = file_of(
        tmp_path, "model: nowhere\ntrain_data: x.jsonl\nvllm_port: 8002\nvllm_host: 10.0.0.7\nresponse_length: 60\n"
    )
    assert run(file, "--model", str(folder), "--vllm_port", "8003").exit_code == 0
    words = executed[0][1]
    assert words[words.index("serve") + 1] == str(folder)
    assert (options(words)["--port"], options(words)["--host"]) == ("8003", "10.0.0.7")


@pytest.mark.parametrize(
    "text, flags", [("vllm_weight_transfer: nccl\n", []), ("", ["--vllm_weight_transfer", "nccl"])]
)
def test_a_run_that_is_told_of_the_server_by_flags_alone(executed, model_folder, tmp_path, text, flags):
    done = run(file_of(tmp_path, f"model: {model_folder()}\ntrain_data: x.jsonl\nresponse_length: 60\n{text}"), *flags)
    assert done.exit_code == 0, done.output
    assert "nccl" in options(executed[0][1])["--weight-transfer-config"]


def test_a_file_with_keys_of_grpo_is_one_of_grpo(executed, model_folder, tmp_path):
    text = f"model: {model_folder()}\nnum_generations: 4\nmax_completion_length: 33\nmax_prompt_length: 40\n"
    done = run(file_of(tmp_path, text))
    assert done.exit_code == 0, done.output
    assert options(executed[0][1])["--max-model-len"] == "73"


@pytest.mark.parametrize("text, stage", [("beta: 0.1\n", GRPOConfig), ("kl_coef: 0.1\n", PPOConfig), ("", PPOConfig)])
def test_what_a_file_is_one_of(tmp_path, text, stage):
    assert cli.stage_of(file_of(tmp_path, "train_data: x.jsonl\n" + text)) is stage


# --- refused


def refused(result: Result) -> str:
    """The message of a command that could not be run."""
    assert result.exit_code == 2 and "Traceback" not in result.output, result.output
    assert result.stdout == "" and result.stderr.startswith("error: ")
    return result.stderr.removeprefix("error: ")


def test_no_file_is_asked_for():
    assert "give the YAML file of the run to serve: easyrlhf vllm_serve configs/ppo.yaml" in refused(run())


def test_a_file_that_is_not_there_is_named(tmp_path, executed):
    assert f"--config {tmp_path}/none.yaml: no such file" in refused(run(f"{tmp_path}/none.yaml"))
    assert not executed


def test_a_key_that_no_run_has_is_named_with_its_line(tmp_path):
    file = file_of(tmp_path, "train_data: x.jsonl\nresponse_lenght: 7\n")
    assert f"{file}:2: " in (message := refused(run(file))) and "response_length" in message


def test_vllm_that_is_not_installed_is_named(model_folder, tmp_path, monkeypatch, executed):
    monkeypatch.setattr(tool, "find_spec", lambda name: None)
    message = refused(run(file_of(tmp_path, f"model: {model_folder()}\n")))
    assert message == "vllm is not installed here; pip install 'easyrlhf[vllm]'\n"
    assert not executed


def test_a_model_that_vllm_cannot_read_is_refused(model_folder, tokenizer, tmp_path, executed):
    folder = model_folder(vocab=len(tokenizer) - 1)
    message = refused(run(file_of(tmp_path, f"model: {folder}\n")))
    assert f"--model {folder}: its tokenizer has {len(tokenizer)} tokens" in message
    assert not executed


def test_an_unfinished_model_is_refused_and_may_be_allowed(model_folder, tmp_path, executed):
    folder = model_folder()
    (folder / "stage.json").write_text('{"status": "running", "stage": "sft"}')
    text = f"model: {folder}\n"
    assert f"--model {folder}: its sft run is not complete" in refused(run(file_of(tmp_path, text)))
    assert run(file_of(tmp_path, text + "allow_incomplete: true\nresponse_length: 60\n")).exit_code == 0
    assert len(executed) == 1

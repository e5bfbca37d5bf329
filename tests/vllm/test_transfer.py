"""Weights that go to a server by vLLM's own NCCL engines, on both sides; only the transport is one that a CPU has."""

import functools
import json
import shutil
import time
from pathlib import Path
from threading import Thread

import pytest
import torch

from easyrlhf.cli.stages import ppo_train as main
from easyrlhf.rollout import vllm_nccl
from easyrlhf.userfile import load_module

EXACT = 1e-5  # nats a token between vLLM's log-probabilities and those of the update's own pass, in float32
TRANSPORT = Path(__file__).parent / "over_tcp.py"
over_tcp = load_module(TRANSPORT)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """Every vLLM process that is started meanwhile has the transport."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copy(TRANSPORT, folder)
    about = folder / "over_tcp-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: over-tcp\nVersion: 0\n")
    (about / "entry_points.txt").write_text("[vllm.general_plugins]\nover_tcp = over_tcp:install\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=":")
        yield


@pytest.fixture(scope="module")
def server(serving, plugin):
    """A server that weights can be sent to."""
    return serving(vllm_weight_transfer="nccl")


@pytest.fixture(autouse=True)
def transport(plugin, monkeypatch):
    """The run has the transport too, and takes its device for one of those that NCCL serves."""
    over_tcp.install(monkeypatch.setattr)
    monkeypatch.setattr("easyrlhf.stages.samplers.pick_device", lambda devices: torch.device("cuda"))
    monkeypatch.setattr("easyrlhf.rollout.vllm_server.write_weights", None)  # no files


@pytest.fixture
def ppo(toy, short, capsys):
    """Runs a PPO in this process; gives its exit code, its steps and what it said."""

    def run(name: str, flags: list[str], steps: int) -> tuple[int, list[dict], str]:
        with pytest.raises(SystemExit) as end:
            main(short(name, *flags, "--vllm_weight_transfer", "nccl", steps=steps))
        log = toy / name / "metrics.jsonl"
        rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        said = capsys.readouterr()
        return end.value.code, rows, said.out + said.err

    return run


def test_new_weights_are_seen_after_every_update(ppo, server):
    code, steps, said = ppo("sent", server.flags, 5)
    assert code == 0, said
    assert [step["health/sampler_mismatch"] < EXACT for step in steps] == [True] * 5
    assert steps[-1]["objective/kl"] > 0.05  # the policy has moved


@pytest.mark.filterwarnings("ignore:Tensor .* exceeds buffer_size_bytes")
def test_weights_that_were_half_sent_are_sent_anew(ppo, server, monkeypatch):
    from vllm.distributed.weight_transfer import nccl_engine

    each = functools.partial(nccl_engine.NCCLTrainerInitInfo, packed_buffer_size_bytes=1)  # tensor by tensor
    monkeypatch.setattr(nccl_engine, "NCCLTrainerInitInfo", each)
    begun = []

    def fails_once(weights):
        """In the second round, between the parts of what vLLM has as one layer."""
        begun.append(weights)
        for name, tensor in weights.pairs:
            if "v_proj" in name and len(begun) == 2:
                raise RuntimeError("the cable is cut")
            yield name, tensor

    monkeypatch.setattr(vllm_nccl.Weights, "__iter__", fails_once)
    code, steps, said = ppo("cut", server.flags, 4)
    assert code == 0, said
    assert len(begun) == 4 + 1
    assert [step["health/sampler_mismatch"] < EXACT for step in steps] == [True] * 4


def test_a_server_that_was_started_anew_is_joined_with_anew(ppo, server, toy):
    def start_anew():
        log = toy / "anew" / "metrics.jsonl"
        while not log.exists() or log.read_text().count("\n") < 3:
            time.sleep(0.05)
        server.kill()
        time.sleep(1)
        server.start()

    meanwhile = Thread(target=start_anew)
    meanwhile.start()
    code, steps, said = ppo("anew", server.flags, 12)
    meanwhile.join()
    assert code == 0, said
    assert f"the vLLM server at http://127.0.0.1:{server.port} does not answer; waiting" in said
    assert [step["health/sampler_mismatch"] < EXACT for step in steps] == [True] * 12


def test_a_server_without_the_setting_is_refused_before_the_run(ppo, serving):
    code, steps, said = ppo("refused", serving().flags, 1)
    assert code == 2 and not steps
    assert "--vllm_weight_transfer nccl: the server at" in said and "500" in said and "the same setting" in said

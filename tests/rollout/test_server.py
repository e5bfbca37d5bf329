"""vLLM's server as a backend: what it is asked, how weights get there, and what counts as lost."""

import socket
import threading
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import tensor as T

from easyrlhf.errors import InputError, ServiceError, ServiceStopped
from easyrlhf.models.lora import LoraSettings, add_lora
from easyrlhf.rollout import vllm_server as client
from easyrlhf.rollout.vllm_sampler import Completion, SamplerLost
from easyrlhf.rollout.vllm_server import VLLMServer
from easyrlhf.userfile import load_module

fake = load_module(Path(__file__).parent / "vllm_server.py")
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture(autouse=True)
def short_looks(monkeypatch):
    """Between two looks at a server that does not answer."""
    monkeypatch.setattr(client, "LOOK", 0.02)


@pytest.fixture
def free_port() -> int:
    """Nobody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


# --- completions


def test_every_prompt_is_a_request_of_its_own_with_its_own_seed(backend, tiny_lm):
    with fake.VLLM().served() as vllm:
        server = backend(vllm.port)
        server.load(tiny_lm())
        with server.session():
            found = server.complete([[11, 12], [13]], [70, 2**63 - 1])
    assert found == [Completion([11, 2], [-0.5, -0.25]), Completion([13, 2], [-0.5, -0.25])]
    shared = {"model": "the-base", "max_tokens": 5, "stop_token_ids": [2], "ignore_eos": True}
    shared |= {"temperature": 0.7, "top_p": 1.0, "top_k": -1, "logprobs": 0}  # the plain softmax at a temperature
    shared |= {"return_token_ids": True, "return_tokens_as_token_ids": True}
    asked = sorted(vllm.asked("/v1/completions"), key=lambda body: body["seed"])
    assert asked == [
        {"prompt": [11, 12], "seed": 70, **shared},
        {"prompt": [13], "seed": 2**63 - 1, **shared},
    ]


def test_requests_are_under_way_together_and_completions_keep_their_order(backend, tiny_lm):
    together = threading.Barrier(20, timeout=20)

    def complete(body):
        together.wait()
        time.sleep(0.01 * (20 - body["prompt"][0]))  # the last one is answered first
        return [body["prompt"][0]], [-float(body["seed"])]

    with fake.VLLM(complete).served() as vllm:
        server = backend(vllm.port)
        server.load(tiny_lm())
        with server.session():
            found = server.complete([[number] for number in range(20)], [100 + number for number in range(20)])
    assert found == [Completion([number], [-100.0 - number]) for number in range(20)]


def test_a_process_without_prompts_asks_nothing(backend):
    with fake.VLLM().served() as vllm:
        assert backend(vllm.port).complete([], []) == []
    assert not vllm.requests


# --- weights


@pytest.mark.parametrize("family", ["llama", "llama-tied"])
def test_the_server_reads_all_weights_from_the_folder_and_learns_their_name(backend, tiny_lm, family, tmp_path):
    read, lm = [], tiny_lm(family)

    def take(folder: Path):
        read.append((folder, {k: v for file in folder.glob("*") for k, v in load_file(file).items()}))

    with fake.VLLM(take=take).served() as vllm:
        server = backend(vllm.port)
        server.load(lm)
        first = vllm.version
        server.load(lm)
    ((folder, tensors), _), expected = read, lm.state_dict()
    assert folder == tmp_path / "weights" and folder.is_absolute()
    assert tensors.keys() == expected.keys() and "lm_head.weight" in tensors
    assert all(torch.equal(tensors[name], tensor) for name, tensor in expected.items())
    paths = [path for path, _ in vllm.requests]
    assert paths == ["/collective_rpc", "/reset_prefix_cache", "/update_weight_version"] * 2
    assert vllm.asked("/collective_rpc")[0] == {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
    assert vllm.version != first  # every hand-over has a name of its own
    assert server.version == vllm.version


def test_an_adapter_is_loaded_in_place_of_the_one_before_and_sampled_with(backend, tiny_lm):
    read, ids = [], T([[5, 6, 7, 8]])
    lm = add_lora(tiny_lm(), LoraSettings(r=4, alpha=8, dropout=0.0, target="all-linear")).eval()
    for name, parameter in lm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)

    def take(folder: Path):
        with torch.no_grad():
            read.append(PeftModel.from_pretrained(tiny_lm(), folder)(input_ids=ids).logits)

    with fake.VLLM(take=take).served() as vllm:
        server = backend(vllm.port, lora_r=4)
        server.load(lm)
        with server.session():
            server.complete([[5]], [1])
    with torch.no_grad():
        torch.testing.assert_close(read[0], lm(input_ids=ids).logits, rtol=0, atol=1e-6)
        assert (read[0] - tiny_lm()(input_ids=ids).logits).abs().max() > 0.1
    (loaded,) = vllm.asked("/v1/load_lora_adapter")
    assert loaded.pop("lora_path").startswith("/")
    assert loaded == {"lora_name": "policy", "load_inplace": True}
    assert not vllm.asked("/collective_rpc")
    assert vllm.asked("/v1/completions")[0]["model"] == "policy"


def test_a_server_that_was_started_anew_counts_as_lost(backend, tiny_lm):
    with fake.VLLM().served() as vllm:
        server = backend(vllm.port)
        server.load(tiny_lm())
        port = vllm.port
    with fake.VLLM().served(port) as anew:
        with pytest.raises(SamplerLost, match=r"has weights as it was started, not [0-9a-f]{32}"), server.session():
            server.complete([[5]], [1])
        assert not anew.asked("/v1/completions")
        server.load(tiny_lm())
        with server.session():
            assert server.complete([[5]], [1]) == [Completion([5, 2], [-0.5, -0.25])]


def test_a_server_that_was_started_anew_within_a_session_counts_as_lost(backend, tiny_lm):
    """Between two turns, say, while nobody asked it for anything."""
    with fake.VLLM().served() as vllm:
        server = backend(vllm.port)
        server.load(tiny_lm())
        with pytest.raises(SamplerLost, match=r"has weights as it was started, not [0-9a-f]{32}"), server.session():
            server.complete([[5]], [1])
            vllm.version = "as it was started"


def test_each_prompt_may_have_a_limit_of_its_own(backend, tiny_lm):
    with fake.VLLM().served() as vllm:
        server = backend(vllm.port)
        server.load(tiny_lm())
        with server.session():
            server.complete([[5], [6]], [1, 2], [3, 4])
            server.complete([[7]], [3], [1])
    asked = {body["prompt"][0]: body["max_tokens"] for body in vllm.asked("/v1/completions")}
    assert asked == {5: 3, 6: 4, 7: 1}
    paths = [path for path, _ in vllm.requests[3:]]  # behind those that weights take
    assert paths == ["/weight_info", "/v1/models", *["/v1/completions"] * 3, "/weight_info"]


# --- trouble


def asked_for(server: VLLMServer) -> list[Completion]:
    """A completion, without a look at the weights."""
    return server.complete([[5]], [1])


@pytest.mark.parametrize("status", [404, 500, 503])
def test_an_answer_that_may_pass_counts_as_lost(backend, status):
    with fake.VLLM().served() as vllm:
        vllm.answers["/v1/completions"] = lambda body: (status, {})
        with pytest.raises(SamplerLost, match=rf"^http://127.0.0.1:{vllm.port}/v1/completions: {status} "):
            asked_for(backend(vllm.port))


@pytest.mark.parametrize("status", [400, 401, 422])
def test_a_refusal_is_told_at_once(backend, status):
    with fake.VLLM().served() as vllm:
        vllm.answers["/v1/completions"] = lambda body: (status, {"message": "max_tokens is too large"})
        with pytest.raises(ServiceError, match=f"/v1/completions: answers {status}: .*max_tokens is too") as caught:
            asked_for(backend(vllm.port))
        assert not isinstance(caught.value, SamplerLost)
        assert len(vllm.requests) == 1


def test_a_refused_or_dropped_connection_counts_as_lost(backend, free_port):
    with pytest.raises(SamplerLost, match="refused"):
        asked_for(backend(free_port))
    with fake.VLLM().served() as vllm:
        vllm.dead = True
        with pytest.raises(SamplerLost, match="Remote end closed connection"):
            asked_for(backend(vllm.port))


def test_a_server_that_takes_longer_than_the_timeout_counts_as_lost(backend):
    go = threading.Event()
    with fake.VLLM(lambda body: go.wait(20) and fake.echo(body)).served() as vllm:
        with pytest.raises(SamplerLost, match="timed out"):
            asked_for(backend(vllm.port, timeout=0.2))
        go.set()


def test_waiting_is_told_once_and_ends_when_the_server_answers(backend, free_port):
    server, back = backend(free_port), []
    waiting = threading.Thread(target=lambda: back.append(server.wait()), daemon=True)
    waiting.start()
    time.sleep(0.2)  # ten looks
    assert waiting.is_alive()
    assert server.told == [f"the vLLM server at {server.url} does not answer; waiting up to 20 seconds"]
    with fake.VLLM().served(free_port) as vllm:
        waiting.join(20)
        assert back == [None]
        assert vllm.asked("/health") and vllm.asked("/v1/models")
    assert server.told[1:] == [f"the vLLM server at {server.url} answers"]


def test_there_is_nothing_to_tell_of_a_server_that_answers(backend):
    with fake.VLLM().served() as vllm:
        server = backend(vllm.port)
        server.wait()
    assert server.told == []


def test_a_server_that_is_healthy_but_has_no_model_yet_is_waited_for(backend):
    looks = []
    with fake.VLLM().served() as vllm:

        def models(body):
            looks.append(body)
            if len(looks) == 3:
                del vllm.answers["/v1/models"]
            return 503, {}

        vllm.answers["/v1/models"] = models
        backend(vllm.port).wait()
    assert len(looks) == 3


def test_waiting_ends_after_the_timeout_with_the_address_and_the_way_out(backend, free_port):
    server = backend(free_port, timeout=0.2)
    with pytest.raises(ServiceError) as caught:
        server.wait()
    assert not isinstance(caught.value, SamplerLost)
    text = str(caught.value)
    assert f"http://127.0.0.1:{free_port} did not answer for 0.2 seconds" in text and "refused" in text
    assert "easyrlhf vllm_serve CONFIG" in text and "--vllm_timeout" in text


def test_waiting_ends_at_once_when_the_run_is_asked_to_stop(backend, free_port):
    begun = time.monotonic()
    with pytest.raises(ServiceStopped, match=r"stopped while the vLLM server at .* did not answer") as caught:
        backend(free_port, timeout=60.0, stopping=lambda: True).wait()
    assert time.monotonic() - begun < 5
    assert caught.value.exit_code == 3


# --- before the run


def test_a_server_that_can_do_it_passes(backend):
    with fake.VLLM(room=40).served() as vllm:
        backend(vllm.port).check(40)


def test_a_server_with_too_little_room_is_bad_input(backend):
    with (
        fake.VLLM(room=39).served() as vllm,
        pytest.raises(
            InputError, match=r"--vllm_port: the server at http\S+ takes 39 tokens, but .* up to 40; .*serve"
        ),
    ):
        backend(vllm.port).check(40)


def test_a_server_that_lets_nobody_change_its_weights_is_bad_input(backend):
    with fake.VLLM().served() as vllm:
        vllm.answers["/weight_info"] = lambda body: (404, {})
        with pytest.raises(InputError, match=r"--vllm_port: .*lets nobody change its weights .*404.*vllm_serve CONFIG"):
            backend(vllm.port).check(40)


@pytest.mark.parametrize("answer", [[], {"data": []}, {"data": [{"id": "other"}]}, "hello"])
def test_what_is_no_vllm_server_is_bad_input(backend, answer):
    with fake.VLLM().served() as vllm:
        vllm.answers["/v1/models"] = lambda body: (200, answer)
        with pytest.raises(InputError, match=r"--vllm_port: what answers at http\S+ is no vLLM server; .*vllm_serve"):
            backend(vllm.port).check(40)

"""Weights that go to a server by NCCL: what is asked and sent, and that nobody waits for a server that fails.

vLLM's engine is replaced where it is imported: it asks what vLLM's own asks, in its order, and waits as NCCL would.
"""

import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch

from easyrlhf.errors import InputError, ServiceError
from easyrlhf.rollout.vllm_sampler import SamplerLost
from easyrlhf.userfile import load_module

fake = load_module(Path(__file__).parent / "vllm_server.py")
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
CPU = torch.device("cpu")
PACKAGE = "vllm.distributed.weight_transfer"
JOIN = ["/get_world_size", "/init_weight_transfer_engine", "/start_weight_update", "/finish_weight_update"]
SEND = ["/start_weight_update", "/update_weights", "/finish_weight_update"]
REST = ["/reset_prefix_cache", "/update_weight_version"]


@dataclass(kw_only=True)
class Place:
    """As NCCLTrainerInitInfo."""

    master_address: str
    master_port: int
    world_size: int
    rank: int


@dataclass
class Meta:
    """As ParamMeta."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class Engine:
    """As vLLM's, on the side of the run; `joins` makes it, `blocks` keeps it waiting until its group is destroyed.

    sent  what each round has read: (what was declared, the pairs)
    """

    def __init__(self, place, client, source):
        self.place, self.client, self.source = place, client, source
        self.model_update_group, self.sent = self, []
        self.blocks, self.destroyed = threading.Event(), False
        self.blocks.set()
        self.fails: Exception | None = None

    def destroy(self) -> None:
        self.destroyed = True
        self.blocks.set()

    def send_weights(self) -> None:
        declared = self.source.metadata()
        self.client.start_weight_update()
        names = {"names": [meta.name for meta in declared]}
        asking = threading.Thread(target=self.quietly, args=(names,))
        asking.start()
        self.blocks.wait(20)
        if self.fails is not None:
            raise self.fails
        self.sent.append((declared, [(name, tensor.clone()) for name, tensor in self.source]))
        asking.join()
        self.client.finish_weight_update()

    def quietly(self, names) -> None:
        """A thread of vLLM's keeps its error to itself until the sending is over."""
        with suppress(ServiceError):
            self.client.update_weights(names)


@pytest.fixture
def engines(monkeypatch) -> list[Engine]:
    """All engines that were made, each after the server was told where to meet."""
    made: list[Engine] = []

    class Factory:
        @staticmethod
        def trainer_init(place, *, client, source):
            engine = Engine(place, client, source)
            client.init_weight_transfer_engine({"master_port": place.master_port, "rank_offset": 1})
            made.append(engine)
            return engine

    modules = {
        f"{PACKAGE}.base": {"ParamMeta": Meta},
        f"{PACKAGE}.factory": {"WeightTransferTrainerFactory": Factory},
        f"{PACKAGE}.nccl_engine": {"NCCLTrainerInitInfo": Place},
    }
    for name in ("vllm", "vllm.distributed", PACKAGE, *modules):
        module = ModuleType(name)
        vars(module).update(modules.get(name, {}))
        monkeypatch.setitem(sys.modules, name, module)
    return made


def paths(vllm) -> list[str]:
    """What was asked, in order."""
    return [path for path, _ in vllm.requests]


@pytest.mark.parametrize("family", ["llama", "llama-tied"])
def test_all_weights_are_sent_and_named_and_the_server_is_joined_with_once(backend, tiny_lm, engines, family, tmp_path):
    lm = tiny_lm(family)
    with fake.VLLM().served() as vllm:
        server = backend(vllm.port, nccl=CPU)
        server.load(lm)
        first = vllm.version
        assert paths(vllm) == JOIN + SEND + REST
        server.load(lm)
        assert paths(vllm)[len(JOIN + SEND + REST) :] == ["/weight_info", *SEND, *REST]
    assert server.version == vllm.version != first
    (engine,) = engines
    assert (engine.place.master_address, engine.place.world_size, engine.place.rank) == ("127.0.0.1", 3, 0)
    with socket.create_server((engine.place.master_address, engine.place.master_port)):
        pass  # nobody had the port
    expected = lm.state_dict()
    assert "lm_head.weight" in expected and len(engine.sent) == 2
    for declared, pairs in engine.sent:
        assert [(meta.name, meta.dtype, meta.shape) for meta in declared] == [
            (name, tensor.dtype, tuple(tensor.shape)) for name, tensor in pairs
        ]
        assert dict(pairs).keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in pairs)
    assert vllm.asked("/init_weight_transfer_engine") == [
        {"init_info": {"master_port": engine.place.master_port, "rank_offset": 1}}
    ]
    assert vllm.asked("/update_weights")[0] == {"update_info": {"names": [name for name, _ in engine.sent[0][1]]}}
    assert not (tmp_path / "weights").exists()


def test_no_weights_are_kept_after_they_were_sent(backend, tiny_lm, engines):
    with fake.VLLM().served() as vllm:
        backend(vllm.port, nccl=CPU).load(tiny_lm())
    assert list(engines[0].source) == []


def test_a_server_that_was_started_anew_is_joined_with_anew(backend, tiny_lm, engines):
    with fake.VLLM().served() as vllm:
        server, port = backend(vllm.port, nccl=CPU), vllm.port
        server.load(tiny_lm())
    with fake.VLLM().served(port) as anew:
        with pytest.raises(SamplerLost, match="has weights as it was started"), server.session():
            server.complete([[5]], [1])
        server.load(tiny_lm())
        assert paths(anew) == ["/weight_info", "/weight_info", *JOIN, *SEND, *REST]
        with server.session():
            assert server.complete([[5]], [1])
    assert [engine.destroyed for engine in engines] == [True, False]
    assert [len(engine.sent) for engine in engines] == [1, 1]


def dropped(body):
    raise ConnectionError


@pytest.mark.parametrize(
    "answer, error",
    [(dropped, SamplerLost), (lambda body: (500, {}), SamplerLost), (lambda body: (400, {}), ServiceError)],
    ids=["dropped", "failed", "refused"],
)
def test_who_waits_in_nccl_is_left_when_the_server_fails(backend, tiny_lm, engines, answer, error):
    with fake.VLLM().served() as vllm:
        server = backend(vllm.port, nccl=CPU)
        server.load(tiny_lm())
        engines[0].blocks.clear()
        vllm.answers["/update_weights"] = answer
        begun = time.monotonic()
        with pytest.raises(ServiceError, match="/update_weights") as caught:
            server.load(tiny_lm())
        assert time.monotonic() - begun < 5
        assert type(caught.value) is error
        assert engines[0].destroyed
        del vllm.answers["/update_weights"]
        server.load(tiny_lm())
    assert [len(engine.sent[-1][1]) > 0 for engine in engines] == [False, True]  # what went on had nothing to read
    assert server.version == vllm.version


def test_sending_that_takes_longer_than_the_timeout_counts_as_lost(backend, tiny_lm, engines):
    with fake.VLLM().served() as vllm:
        server = backend(vllm.port, nccl=CPU, timeout=0.3)
        server.load(tiny_lm())
        engines[0].blocks.clear()
        with pytest.raises(SamplerLost, match=rf"^http://127.0.0.1:{vllm.port}: NCCL did not .* within 0.3 seconds"):
            server.load(tiny_lm())
    assert engines[0].destroyed


def test_an_error_of_nccl_counts_as_lost_and_one_of_ours_does_not(backend, tiny_lm, engines):
    with fake.VLLM().served() as vllm:
        server = backend(vllm.port, nccl=CPU)
        server.load(tiny_lm())
        engines[0].fails = RuntimeError("NCCL error: remote process exited")
        with pytest.raises(SamplerLost, match="remote process exited"):
            server.load(tiny_lm())
        server.load(tiny_lm())
        engines[1].fails = ValueError("metadata() disagrees with iteration")
        with pytest.raises(ValueError, match="disagrees with iteration"):
            server.load(tiny_lm())


def test_closing_lets_go_of_the_group(backend, tiny_lm, engines):
    with fake.VLLM().served() as vllm:
        server = backend(vllm.port, nccl=CPU)
        server.load(tiny_lm())
        server.close()
    assert engines[0].destroyed


# --- before the run


def test_a_server_is_joined_with_before_the_run_and_not_again(backend, tiny_lm, engines):
    with fake.VLLM().served() as vllm:
        server = backend(vllm.port, nccl=CPU)
        server.check(40)
        assert [path for path in paths(vllm) if path in JOIN] == JOIN
        server.load(tiny_lm())
    assert len(engines) == 1 and len(engines[0].sent) == 1


def test_a_server_that_does_not_join_is_bad_input(backend, engines):
    with fake.VLLM().served() as vllm:
        vllm.answers["/init_weight_transfer_engine"] = lambda body: (500, {})
        with pytest.raises(InputError) as caught:
            backend(vllm.port, nccl=CPU).check(40)
    text = str(caught.value)
    assert text.startswith(f"--vllm_weight_transfer nccl: the server at http://127.0.0.1:{vllm.port} does not join (")
    assert "/init_weight_transfer_engine: 500" in text and "start it with the same setting" in text and "files" in text


def test_a_vllm_that_has_no_such_engine_is_bad_input(backend, engines, monkeypatch):
    monkeypatch.setitem(sys.modules, f"{PACKAGE}.factory", None)
    with fake.VLLM().served() as vllm:
        with pytest.raises(InputError, match=r"--vllm_weight_transfer nccl: vllm cannot be used here: .*; use .*"):
            backend(vllm.port, nccl=CPU).check(40)
        assert "/init_weight_transfer_engine" not in paths(vllm)

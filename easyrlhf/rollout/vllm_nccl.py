"""A policy's weights on their way to a vLLM server from GPU to GPU, by vLLM's own engine for it."""

import os
import socket
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import torch
from torch import Tensor, nn

from easyrlhf.errors import EasyRLHFError, InputError, ServiceError
from easyrlhf.launch import free_port
from easyrlhf.rollout.vllm_sampler import SamplerLost
from easyrlhf.rollout.vllm_weights import named_weights


class Weights:
    """Weights under their names, as vLLM's engine wants its WeightSource."""

    def __init__(self):
        self.pairs: list[tuple[str, Tensor]] = []

    def metadata(self) -> list[Any]:
        """What iteration gives, in its order."""
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.pairs]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return iter(self.pairs)


class Link:
    """A group of NCCL's that this process and those of a server are in; to vLLM's engine, its client.

    host, port  of the server
    ask         Server.ask
    timeout     seconds that the server may take to join, and to take all weights
    device      that the weights are sent from
    Raises InputError when vLLM is not as it has to be, SamplerLost or ServiceError when the server does not join.
    """

    def __init__(self, host: str, port: int, *, ask: Callable, timeout: float, device: torch.device):
        self.server, self.ask, self.timeout, self.device = (host, port), ask, timeout, device
        self.weights, self.engine, self.closed = Weights(), None, False
        self.watched(self.join)

    def join(self) -> None:
        """Have vLLM's engine on this side, as soon as the server has come to where it was told."""
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        try:
            from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        except ImportError as error:
            raise InputError(
                f"--vllm_weight_transfer nccl: vllm cannot be used here: {error}; use --vllm_weight_transfer files"
            ) from error
        size = 1 + self.ask("/get_world_size")["world_size"]
        with socket.create_connection(self.server, self.timeout) as line:
            address = line.getsockname()[0]  # of this machine, in the network that leads to the server
        place = NCCLTrainerInitInfo(master_address=address, master_port=free_port(), world_size=size, rank=0)
        self.engine = WeightTransferTrainerFactory.trainer_init(place, client=self, source=self.weights)
        self.start_weight_update()  # of nothing: what was half sent before would mix with what comes
        self.finish_weight_update()

    def send(self, lm: nn.Module) -> None:
        """Give the server all weights of a model. Raises SamplerLost or ServiceError, and is closed then."""
        self.weights.pairs = list(named_weights(lm))
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # vLLM reads the weights in streams of its own
        self.watched(self.engine.send_weights)
        self.weights.pairs = []

    def watched(self, job: Callable[[], None]) -> None:
        """Do a job in a thread, which is left behind when the server fails it: NCCL would wait for ever."""
        self.errors = errors = SimpleQueue()  # of the job, and of what it asks; None at its end

        def work() -> None:
            try:
                if self.device.type == "cuda":
                    torch.cuda.set_device(self.device)
                job()
                errors.put(None)
            except Exception as error:
                errors.put(error)

        Thread(target=work, name="nccl", daemon=True).start()
        try:
            error = errors.get(timeout=self.timeout)
        except Empty:
            error = TimeoutError(f"NCCL did not get through within {self.timeout:g} seconds")
        if error is None:
            return
        self.close()
        if isinstance(error, OSError | RuntimeError) and not isinstance(error, EasyRLHFError):
            raise SamplerLost(f"http://{self.server[0]}:{self.server[1]}: {error}") from error
        raise error

    def close(self) -> None:
        """Let go of the group, and of who waits in it."""
        self.closed = True
        self.weights.pairs.clear()  # a thread that still reads them meets their end, which vLLM takes for an error
        if self.engine is not None:
            self.engine.model_update_group.destroy()

    def post(self, path: str, body: dict[str, Any]) -> None:
        """Ask the server; when that fails, watched knows, whoever waits for the server inside NCCL."""
        if self.closed:
            raise SamplerLost("the link is closed")  # to a thread that was left behind
        try:
            self.ask(path, body)
        except ServiceError as error:
            self.errors.put(error)
            raise

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let the server join."""
        self.post("/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        """Let the server expect weights."""
        self.post("/start_weight_update", {})

    def update_weights(self, update_info: Any) -> None:
        """Let the server receive weights with these names, types and shapes, as they are sent."""
        self.post("/update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Let the server use them; it is told their version when its cache is empty."""
        self.post("/finish_weight_update", {})

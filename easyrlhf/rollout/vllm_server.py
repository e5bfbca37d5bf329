"""A vLLM server as easyrlhf vllm_serve starts it: other devices sample while this program's train."""

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import torch
from torch import nn

from easyrlhf.engine import processes
from easyrlhf.errors import InputError, ServiceError, ServiceStopped
from easyrlhf.rollout.vllm_nccl import Link
from easyrlhf.rollout.vllm_sampler import Completion, Drawing, SamplerLost
from easyrlhf.rollout.vllm_weights import write_adapter, write_weights

AT_ONCE = 256  # requests of a process that are under way together
CONNECT = 10.0  # seconds to be let in
LOOK = 1.0  # seconds between two looks at whether the server answers
ADAPTER = "policy"


@dataclass(frozen=True)
class WeightTransfer:
    """How weights get to the server.

    folder  where they are handed over: the server reads them there
    lora_r  rank of the adapter that is trained; 0 when all weights are
    nccl    device that NCCL sends all weights from; None: they go through the folder
    """

    folder: Path
    lora_r: int
    nccl: torch.device | None


@dataclass(frozen=True)
class Waiting:
    """How long the server is waited for, and who is told.

    timeout   seconds to wait for an answer
    tell      says a line to the user
    stopping  whether the user has asked the run to stop
    """

    timeout: float
    tell: Callable[[str], None]
    stopping: Callable[[], bool]


class VLLMServer:
    """A Backend over HTTP."""

    ranks, at_once = 1, True

    def __init__(self, host: str, port: int, drawing: Drawing, transfer: WeightTransfer, waiting: Waiting):
        self.url, self.place = f"http://{host}:{port}", (host, port)
        self.folder, self.lora_r, self.nccl = transfer.folder, transfer.lora_r, transfer.nccl
        self.timeout, self.tell, self.stopping = waiting.timeout, waiting.tell, waiting.stopping
        self.drawing = drawing.settings()
        self.threads = ThreadPoolExecutor(AT_ONCE, "vllm")
        self.version = self.serving = ""
        self.link: Link | None = None

    def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of an answer, or its text; a body makes it a POST.

        Raises SamplerLost when there is none, ServiceError when the request is refused.
        """
        method, url = "GET" if body is None else "POST", self.url + path
        try:
            # The server drops connections that are idle for seconds, even as the next request is on its way.
            headers, timeout = {"Connection": "close"}, (CONNECT, self.timeout)
            answer = requests.request(method, url, json=body, headers=headers, timeout=timeout)
            if 400 <= answer.status_code < 500 and answer.status_code != 404:  # 404: an adapter that is not there
                raise ServiceError(f"{url}: answers {answer.status_code}: {answer.text[:300]}")
            answer.raise_for_status()
            return answer.json() if "json" in answer.headers.get("content-type", "") else answer.text
        except (requests.RequestException, ValueError) as error:
            raise SamplerLost(f"{url}: {error}") from error

    def model(self) -> dict[str, Any]:
        """What the server says of the model it was started with. Raises InputError when it is no vLLM server."""
        try:
            known = self.ask("/v1/models")["data"][0]
            return {"id": known["id"], "room": known["max_model_len"]}
        except (KeyError, IndexError, TypeError) as error:
            raise InputError(
                f"--vllm_port: what answers at {self.url} is no vLLM server; start one with easyrlhf vllm_serve CONFIG"
            ) from error

    def check(self, max_length: int) -> None:
        """Wait for the server and raise InputError when it cannot do what the run needs."""
        self.wait()
        room = self.model()["room"]
        if room < max_length:
            raise InputError(
                f"--vllm_port: the server at {self.url} takes {room} tokens, but prompts and completions have up to "
                f"{max_length}; start it with the settings of this run: easyrlhf vllm_serve CONFIG"
            )
        try:
            self.weight_version()
        except SamplerLost as error:
            raise InputError(
                f"--vllm_port: the server at {self.url} lets nobody change its weights ({error}); start it with "
                "easyrlhf vllm_serve CONFIG"
            ) from error
        if self.nccl is not None:
            self.check_link()

    def check_link(self) -> None:
        """Join with the server by NCCL. Raises InputError when it does not."""
        try:
            self.join()
        except ServiceError as error:
            raise InputError(
                f"--vllm_weight_transfer nccl: the server at {self.url} does not join ({error}); start it with the "
                "same setting, on GPUs that the run does not use, or use files"
            ) from error
        self.version = self.name_weights()

    def load(self, lm: nn.Module) -> None:
        """As Backend says; the main process does it."""
        self.version = processes.on_main(lambda: self.hand_over(lm))

    def hand_over(self, lm: nn.Module) -> str:
        """Let the server take the weights; returns the name they have there."""
        place = str(self.folder.resolve())
        if self.lora_r:
            write_adapter(lm, self.folder)
            self.ask("/v1/load_lora_adapter", {"lora_name": ADAPTER, "lora_path": place, "load_inplace": True})
        elif self.nccl is not None:
            self.send(lm)
        else:
            write_weights(lm, self.folder)
            self.ask("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": place}})
        self.ask("/reset_prefix_cache", {})
        return self.name_weights()

    def name_weights(self) -> str:
        """Give the server's weights a new name; one that is started anew does not know it."""
        version = uuid.uuid4().hex
        self.ask("/update_weight_version", {"new_version": version})
        return version

    def weight_version(self) -> str:
        """The name of the server's weights."""
        return self.ask("/weight_info")["weight_version"]

    def send(self, lm: nn.Module) -> None:
        """Send all weights by NCCL; a server that was started anew is joined with anew."""
        if self.link is None or self.link.closed or self.weight_version() != self.version:
            self.join()
        self.link.send(lm)

    def join(self) -> None:
        """Have a link to the server, in place of the one before."""
        self.part()
        host, port = self.place
        self.link = Link(host, port, ask=self.ask, timeout=self.timeout, device=self.nccl)

    def part(self) -> None:
        """Give up the link, if there is one."""
        if self.link is not None:
            self.link.close()

    @contextmanager
    def session(self) -> Iterator[None]:
        """As Backend says. A server that was started anew since load counts as lost, and so does one that was since."""
        self.check_weights()
        self.serving = ADAPTER if self.lora_r else self.model()["id"]
        yield
        self.check_weights()

    def check_weights(self) -> None:
        """Raise SamplerLost unless the server has the weights that it was given last."""
        if (theirs := self.weight_version()) != self.version:
            raise SamplerLost(f"{self.url}: has weights {theirs}, not {self.version}")

    def complete(
        self,
        prompts: list[list[int]],
        seeds: list[int],
        limits: list[int] | None = None,
        ended: Callable[[int, list[int]], None] | None = None,
    ) -> list[Completion]:
        """As Backend says."""
        asked = list(zip(prompts, seeds, limits or [self.drawing["max_tokens"]] * len(prompts), strict=True))

        def complete_number(number: int) -> Completion:
            completion = self.complete_one(*asked[number])
            if ended:
                ended(number, completion.ids)
            return completion

        if len(asked) == 1:  # it needs no thread beside the one that waits for it
            return [complete_number(0)]
        return list(self.threads.map(complete_number, range(len(asked))))

    def complete_one(self, prompt: list[int], seed: int, limit: int) -> Completion:
        """One completion: a request of several prompts would draw them all with one seed."""
        body = {"model": self.serving, "prompt": prompt, "seed": seed, **self.drawing, "max_tokens": limit}
        body |= {"return_token_ids": True, "return_tokens_as_token_ids": True}
        choice = self.ask("/v1/completions", body)["choices"][0]
        return Completion(choice["token_ids"], choice["logprobs"]["token_logprobs"])

    def wait(self) -> None:
        """As Backend says."""
        end, told = time.monotonic() + self.timeout, False
        while True:
            try:
                self.ask("/health")
                self.model()
                break
            except SamplerLost as error:
                if self.stopping():
                    raise ServiceStopped(f"stopped while the vLLM server at {self.url} did not answer") from error
                if time.monotonic() > end:
                    raise ServiceError(
                        f"the vLLM server at {self.url} did not answer for {self.timeout:g} seconds ({error}); start "
                        "it with easyrlhf vllm_serve CONFIG, or raise --vllm_timeout"
                    ) from error
            if not told:
                self.tell(f"the vLLM server at {self.url} does not answer; waiting up to {self.timeout:g} seconds")
                told = True
            time.sleep(LOOK)
        if told:
            self.tell(f"the vLLM server at {self.url} answers")

    def close(self) -> None:
        """As Backend says; the server goes on."""
        self.part()
        self.threads.shutdown(wait=False, cancel_futures=True)

"""A vLLM server for tests: the paths that a run asks for, with answers that a test wants."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler

Answer = tuple[int, Any]  # status, what is sent as JSON

MODEL = "the-base"


def echo(body: dict) -> tuple[list[int], list[float]]:
    """A completion that tells prompts apart: the prompt's first token and the end, 2."""
    return [body["prompt"][0], 2], [-0.5, -0.25]


class Samples:
    """A model as the server has it, with the weights that were handed over last."""

    def __init__(self, folder: str):
        self.folder, self.lock = folder, threading.Lock()
        self.lm = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.taken = self.drawn = 0

    def take(self, folder: Path) -> None:
        """Read weights, or an adapter."""
        with self.lock:
            if (folder / "adapter_config.json").exists():
                base = AutoModelForCausalLM.from_pretrained(self.folder)
                self.lm = PeftModel.from_pretrained(base, folder).eval()
            else:
                (file,) = folder.glob("*")
                self.lm.load_state_dict(load_file(file))
            self.taken += 1

    def __call__(self, body: dict) -> tuple[list[int], list[float]]:
        """A completion by the plain softmax."""
        with self.lock:
            self.drawn += 1
            (end,) = body["stop_token_ids"]
            sampler = HFSampler(self.lm, 0, Ending((end,)), body["max_tokens"], body["temperature"], 1)
            found = sampler.generate([body["prompt"]], [(body["seed"],)])
        return found.completion_ids[0].tolist(), found.logprobs[0].tolist()


class VLLM:
    """What the server says and remembers.

    complete   body of a completion's request → (token ids, their log-probabilities)
    take       is called with the folder of weights or of an adapter while the request for it is answered
    answers    path → (body → answer), in place of what is said otherwise
    requests   (path, body) of all that came, body None for a GET
    dead       drops every connection without a word, as an answer does that raises ConnectionError
    """

    def __init__(self, complete: Callable = echo, take: Callable[[Path], None] = lambda folder: None, room: int = 100):
        self.complete, self.take, self.room = complete, take, room
        self.answers: dict[str, Callable[[dict | None], Answer]] = {}
        self.requests: list[tuple[str, dict | None]] = []
        self.version, self.dead, self.port = "as it was started", False, 0

    def asked(self, path: str) -> list[dict | None]:
        """The bodies that came to a path."""
        return [body for where, body in list(self.requests) if where == path]

    def answer(self, path: str, body: dict | None) -> Answer:
        """What vLLM says."""
        if self.dead:
            raise ConnectionError
        if path in self.answers:
            return self.answers[path](body)
        if path == "/v1/completions":
            ids, logprobs = self.complete(body)
            return 200, {"choices": [{"token_ids": ids, "logprobs": {"token_logprobs": logprobs}}]}
        if path == "/collective_rpc":
            self.take(Path(body["kwargs"]["weights_path"]))
        if path == "/v1/load_lora_adapter":
            self.take(Path(body["lora_path"]))
        if path == "/update_weight_version":
            self.version = body["new_version"]
        known = {
            "/v1/models": {"data": [{"id": MODEL, "max_model_len": self.room}]},
            "/weight_info": {"weight_version": self.version},
            "/get_world_size": {"world_size": 2},
        }
        return 200, known.get(path, {})

    @contextmanager
    def served(self, port: int = 0) -> Iterator["VLLM"]:
        """Answer on a port of this machine for a while."""
        vllm = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.respond(None)

            def do_POST(self):
                self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def respond(self, body: dict | None):
                vllm.requests.append((self.path, body))
                with suppress(ConnectionError):  # of an answer that drops the connection, or of a client that has left
                    status, found = vllm.answer(self.path, body)
                    text = json.dumps(found).encode()
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)

            def log_message(self, *_):
                pass

        class Listening(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256  # the client's requests come all at once

        with Listening(("127.0.0.1", port), Handler) as server:
            self.port = server.server_port
            thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
            thread.start()
            try:
                yield self
            finally:
                server.shutdown()
                thread.join()


def sampling(folder: str) -> VLLM:
    """A server that has begun with the weights of a folder; `samples` is what it samples with."""
    samples = Samples(folder)
    made = VLLM(samples, samples.take)
    made.samples = samples
    return made

"""An OpenAI-compatible server for tests, whose replies are what a test wants them to be."""

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Request:
    """What reached the server."""

    path: str
    key: str | None
    body: dict

    @property
    def question(self) -> str:
        """What the judge was asked."""
        return self.body["messages"][-1]["content"]


def reply(text: str) -> tuple[int, bytes]:
    """A good answer that says this."""
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def likely(first: list[tuple[str, float]], tokens: int = 10) -> tuple[int, bytes]:
    """A good answer whose first token was drawn from these, given with their log-probabilities."""
    said = max(first, key=lambda one: one[1])[0]
    top = [{"token": token, "logprob": logprob} for token, logprob in first]
    choice = {"message": {"content": said}, "logprobs": {"content": [{"token": said, "top_logprobs": top}]}}
    return 200, json.dumps({"choices": [choice], "usage": {"total_tokens": tokens}}).encode()


@contextmanager
def chat_server(answer: Callable[[Request], tuple], get: int = 200):
    """Serves `answer(request)` to every POST; yields (url, requests so far).

    answer  gives (status, body) or (status, body, headers)
    get     the status of every GET
    """
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(get)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            request = Request(self.path, self.headers.get("Authorization"), body)
            requests.append(request)
            status, data, *more = answer(request)
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            for name, value in (more[0] if more else {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            thread.join()

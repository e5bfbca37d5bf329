"""Servers of NeMo Gym for tests: what they are asked is kept, and what they answer is what a test wants."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

import yaml

Answer = tuple[int, object]  # status, JSON body, or text as it is
Route = Callable[[dict, str], Answer]  # body, session → answer


@dataclass
class Gym:
    """A running server.

    asked  (path, body, session) of every POST, in order; the session is the cookie that it brought, "" for none
    """

    url: str
    routes: dict[str, Route]
    asked: list[tuple[str, dict, str]] = field(default_factory=list)

    def of(self, path: str) -> list[dict]:
        """The bodies of the requests to a path."""
        return [body for one, body, _ in self.asked if one == path]


@contextmanager
def gym_server(config: dict | None = None, **routes: Route | Answer) -> Iterator[Gym]:
    """Serves routes below `/`; seed_session gives a cookie, config is that of a head server."""
    numbers = count(1)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if config is None or self.path != "/global_config_dict_yaml":
                return self.say(404, {"detail": "Not Found"})
            self.say(200, yaml.safe_dump(config))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            path, session = self.path.removeprefix("/"), (self.headers.get("Cookie") or "").removeprefix("session=")
            gym.asked.append((path, body, session))
            route = gym.routes.get(path)
            if route is None and path != "seed_session":
                return self.say(404, {"detail": "Not Found"})
            status, said = (200, {}) if route is None else route(body, session) if callable(route) else route
            self.say(status, said, path == "seed_session")

        def say(self, status: int, said: object, seeds: bool = False):
            text = said.encode() if isinstance(said, str) and config is None else json.dumps(said).encode()
            self.send_response(status)
            if seeds:
                self.send_header("Set-Cookie", f"session={next(numbers)}")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # as many as ask at once

    with Server(("127.0.0.1", 0), Handler) as server:
        gym = Gym(f"http://127.0.0.1:{server.server_port}", routes)
        thread = threading.Thread(target=lambda: server.serve_forever(0.05), daemon=True)
        thread.start()
        try:
            yield gym
        finally:
            server.shutdown()
            thread.join()


def text_of(body: dict) -> str:
    """What the last message of a response says."""
    return body["response"]["output"][-1]["content"][0]["text"]


def graded(body: dict, _: str) -> Answer:
    """Reward 1 for the expected answer; a body without one is refused as NeMo Gym's are."""
    if "expected_answer" not in body:
        return 422, {"detail": [{"type": "missing", "loc": ["body", "expected_answer"], "msg": "Field required"}]}
    return 200, body | {"reward": float(text_of(body) == body["expected_answer"])}

"""easyrlhf serve_reward: a trained reward model behind HTTP; docs/rewards.md has the protocol."""

import json
import signal
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from easyrlhf.config import ServeRewardConfig
from easyrlhf.config.reward_models import Listening
from easyrlhf.data.decoding import read_json
from easyrlhf.errors import InputError
from easyrlhf.tools.scoring import MOST_DIGITS, BadRequest, load_scorer

PATHS = ("/", "/score")
TOO_LARGE = 413
LARGEST = 2**26  # bytes of a request: 64 completions of a mebibyte each, with their prompts and columns
READ_ON = 2**28  # bytes of a larger one that are read and forgotten
PATIENCE = 2.0  # seconds that its next bytes may take


class Handler(BaseHTTPRequestHandler):
    """GET /health, POST / and POST /score."""

    server: "RewardHTTPServer"

    def do_GET(self) -> None:
        """Say that the server is ready."""
        if self.path == "/health":
            self.reply(200, {"status": "ok"})
        else:
            self.reply(404, {"error": f"GET {self.path}: there is GET /health, and POST / for scores"})

    def do_POST(self) -> None:
        """Answer with scores."""
        try:
            body = self.body()
            if self.path not in PATHS:
                self.reply(404, {"error": f"POST {self.path}: scores are at POST /"})
                return
            self.reply(200, self.server.scorer.answer(parsed(body)))
        except BadRequest as error:
            self.reply(error.status, {"error": str(error)})
            if error.status == TOO_LARGE:
                self.read_on()
        except ConnectionError:
            raise
        except Exception as error:  # out of memory, say: the client is told, and tries again
            self.reply(500, {"error": f"{type(error).__name__}: {error}"})

    def body(self) -> bytes:
        """What was sent. Raises BadRequest when that is too much, or nobody knows how much."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise BadRequest(f"Content-Length {length!r}: must be the number of bytes that follow", 411)
        if len(length) > MOST_DIGITS or int(length) > LARGEST:
            raise BadRequest(
                f"the request has {length} bytes, more than {LARGEST:,}; send fewer rows at a time", TOO_LARGE
            )
        return self.rfile.read(int(length))

    def read_on(self) -> None:
        """Read what follows and forget it: a client hears an answer once it has sent what it has to say."""
        self.connection.settimeout(PATIENCE)
        left = READ_ON
        with suppress(OSError):
            while left > 0 and (piece := self.rfile.read1(2**16)):
                left -= len(piece)

    def reply(self, status: int, answer: dict[str, Any]) -> None:
        """Send JSON."""
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_request(self, *_) -> None:
        """Nothing: a line a request would hide the one that says how to reach the server."""


def parsed(body: bytes) -> Any:
    """The JSON of a request. Raises BadRequest."""
    try:
        return read_json(body)
    except ValueError as error:
        raise BadRequest(f"the request {error}") from error


class ScoreSource(Protocol):
    """What scores come from."""

    def answer(self, body: Any) -> dict[str, list]:
        """The answer to a request's JSON. Raises BadRequest."""


class RewardHTTPServer(ThreadingHTTPServer):
    """Serves a scorer; open requests do not keep it from ending."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], scorer: ScoreSource):
        self.scorer = scorer
        super().__init__(address, Handler)


def serve_reward(config: ServeRewardConfig) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises InputError for a folder, device or address that cannot be used."""
    serve_scores(config, config.reward_model, load_scorer(config))


def serve_scores(config: Listening, name: str, scorer: ScoreSource) -> None:
    """Serve what answers requests, under a name. Raises InputError for an address that cannot be used."""
    try:
        server = RewardHTTPServer((config.host, config.port), scorer)
    except OSError as error:
        place = f"--host {config.host} --port {config.port}"
        raise InputError(f"{place}: cannot listen there ({error.strerror}); give another --port") from error
    host = socket.gethostname() if config.host == "0.0.0.0" else config.host
    with server:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        print(f"{name} is ready: --reward_url http://{host}:{server.server_port}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended", flush=True)

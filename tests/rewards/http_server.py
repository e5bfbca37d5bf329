"""A reward server for tests, whose answers are what a test wants them to be."""

import json
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, bytes]  # status, body


def scores(*numbers) -> Answer:
    """A good answer."""
    return 200, json.dumps({"scores": list(numbers)}).encode()


@contextmanager
def reward_server(answer: Callable[[dict], Answer | str]):
    """Serves `answer(request)` to every POST; yields (url, requests so far).

    The answer "cut" ends the connection in the middle of an answer, "close" before one.
    """
    requests: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(405)

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(request)
            given = answer(request)
            if given == "close":
                return
            status, body = scores(1.0) if given == "cut" else given
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) + 100 * (given == "cut")))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            thread.join()

"""The server's life, from the first request to Ctrl-C."""

import socket

from starlette.types import ASGIApp

from easyrlhf.serve.decode import DecodeEngine
from easyrlhf.web.http_server import AppServer


class ChatServer(AppServer):
    """Ends what is being decoded before it waits for its clients to be answered."""

    def __init__(self, app: ASGIApp, engine: DecodeEngine):
        super().__init__(app, engine.close)


def run_server(app: ASGIApp, engine: DecodeEngine, listener: socket.socket) -> None:
    """Serve until a signal; Ctrl-C comes out as KeyboardInterrupt."""
    try:
        ChatServer(app, engine).run(sockets=[listener])
    finally:
        engine.close()

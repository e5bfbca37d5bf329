"""The server's life, from the first request to Ctrl-C."""

import socket

import uvicorn
from starlette.types import ASGIApp

from easyrlhf.serve.decode import DecodeEngine

PATIENCE = 5  # seconds that requests at hand have when the server ends


class ChatServer(uvicorn.Server):
    """Ends what is being decoded before it waits for its clients to be answered."""

    def __init__(self, app: ASGIApp, engine: DecodeEngine):
        self.engine = engine
        how = {"http": "h11", "ws": "none", "lifespan": "off", "log_config": None, "access_log": False}
        super().__init__(
            uvicorn.Config(app, **how, server_header=False, proxy_headers=False, timeout_graceful_shutdown=PATIENCE)
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no further request, end those at hand, and close."""
        self.engine.close()
        await super().shutdown(sockets)


def run_server(app: ASGIApp, engine: DecodeEngine, listener: socket.socket) -> None:
    """Serve until a signal; Ctrl-C comes out as KeyboardInterrupt."""
    try:
        ChatServer(app, engine).run(sockets=[listener])
    finally:
        engine.close()

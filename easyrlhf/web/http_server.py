"""A server's life, from the first request to Ctrl-C."""

import signal
import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

PATIENCE = 5  # seconds that requests at hand have when the server ends


class AppServer(uvicorn.Server):
    """Serves an app over plain HTTP; says nothing of its clients, nor of itself.

    before_end  is called when no further request is taken, before those at hand are waited for
    """

    def __init__(self, app: ASGIApp, before_end: Callable[[], None] = lambda: None):
        self.before_end = before_end
        how = {"http": "h11", "ws": "none", "lifespan": "off", "log_config": None, "access_log": False}
        super().__init__(
            uvicorn.Config(app, **how, server_header=False, proxy_headers=False, timeout_graceful_shutdown=PATIENCE)
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no further request, end those at hand, and close."""
        self.before_end()
        await super().shutdown(sockets)


def term_as_interrupt() -> None:
    """SIGTERM ends a server as Ctrl-C does."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)

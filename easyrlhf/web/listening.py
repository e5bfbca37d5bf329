"""What a server needs before it can be: the packages, and a socket; imports the standard library alone."""

import socket
import sys
from importlib.util import find_spec

from easyrlhf.errors import InputError

NEEDED = ("starlette", "uvicorn")


def check_installed(command: str, extra: str) -> None:
    """Raise InputError where the packages of a server are not installed."""
    if any(find_spec(name) is None for name in NEEDED):
        raise InputError(f"{command} needs a web server, which is not installed; pip install 'easyrlhf[{extra}]'")


def listening(host: str, port: int) -> socket.socket:
    """A socket at this address. Raises InputError."""
    place = f"--host {host} --port {port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"{place}: is no address of this machine ({error.strerror}); leave --host out") from error
    try:
        if sys.platform != "win32":  # there it lets two programs have one port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()
    except OSError as error:
        found.close()
        raise InputError(f"{place}: cannot listen there ({error.strerror}); give another --port") from error
    return found


def plain_http_warning(host: str, port: int, what: str) -> str:
    """What is said where other machines reach a server; `what` crosses the network."""
    return (
        f"warning: --host {host}: {what} cross the network as plain HTTP, which can "
        f"be read. Safer: leave --host out, and on the other machine ssh -L {port}:127.0.0.1:{port} THIS_MACHINE"
    )

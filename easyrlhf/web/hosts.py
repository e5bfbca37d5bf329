"""The names by which a server may be called, and addresses as links have them."""

import ipaddress
import socket
from collections.abc import Iterable

LOCAL = ("127.0.0.1", "localhost", "[::1]")


class Hosts:
    """The names by which a server may be called: a page elsewhere may let its own name lead here (DNS rebinding).

    host   the address that the server listens on
    extra  names that the user allows beside
    """

    def __init__(self, host: str, extra: Iterable[str] = ()):
        self.names = {name.lower() for name in (*LOCAL, in_url(host), *extra)}
        self.any_address = is_wildcard(host)
        if self.any_address:
            self.names.add(socket.gethostname().lower())

    def allow(self, given: str) -> bool:
        """Whether the server may be called by this Host header; any port will do, as ssh -L changes it."""
        name = given.lower()
        if name.rpartition(":")[2].isdigit() and not name.endswith("]"):
            name = name.rpartition(":")[0]
        return name in self.names or (self.any_address and is_address(name))


def is_wildcard(host: str) -> bool:
    """Whether a server that listens there is reached by every address of its machine."""
    return is_address(host) and ipaddress.ip_address(host.strip("[]")).is_unspecified


def is_address(name: str) -> bool:
    """Whether it is an address in numbers, which no name server can turn elsewhere."""
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def is_local(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host.strip("[]")).is_loopback)


def in_url(host: str) -> str:
    """An address as links have it."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host

"""Who may ask: the key, the browser's cookie, and what keeps other pages of that browser out."""

import hashlib
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from easyrlhf.data.decoding import read_json
from easyrlhf.serve.refusals import Refusal

LOCAL = ("127.0.0.1", "localhost", "[::1]")
GUARDED = ("/v1", "/api")  # what needs the key
LIMIT = 2**20  # bytes of a request
READ_ON = 16 * LIMIT  # bytes of a larger one that are read and forgotten: clients listen once they have sent it all
OWN_HEADER = "x-easyrlhf"  # a page of another origin cannot send it without being allowed to
COOKIE_AGE = 30 * 24 * 3600  # seconds
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def new_key() -> str:
    """A key that nobody guesses: 128 bits."""
    return secrets.token_urlsafe(16)


class Key:
    """The key of a server, and what a browser is given for it.

    A browser sends cookies to all ports of a machine: the name tells those of several servers apart, and the value is
    not the key itself.
    """

    def __init__(self, text: str):
        self._key = text.encode()
        self.cookie = hmac.new(self._key, b"cookie", hashlib.sha256).hexdigest()
        self.cookie_name = "easyrlhf_" + hmac.new(self._key, b"name", hashlib.sha256).hexdigest()[:12]

    def is_key(self, given: str) -> bool:
        """Whether this is the key; takes as long for any text."""
        return same_text(given.encode("utf-8", "surrogatepass"), self._key)

    def is_cookie(self, given: str) -> bool:
        """Whether this is what a browser was given for the key."""
        return same_text(given.encode("utf-8", "surrogatepass"), self.cookie.encode())


def same_text(one: bytes, other: bytes) -> bool:
    """Whether two texts are equal, in a time that tells neither where they differ nor how long they are."""
    return hmac.compare_digest(hashlib.sha256(one).digest(), hashlib.sha256(other).digest())


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


class Guard:
    """Stands before the app: refuses who may not ask, and puts its headers on every answer."""

    def __init__(self, app: ASGIApp, key: Key, hosts: Hosts):
        self.app, self.key, self.hosts = app, key, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the app answer."""
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        try:
            answer = self.refused(scope)
        except Refusal as refusal:
            answer = refusal_response(refusal)
        await (answer or self.app)(scope, receive, with_headers)

    def refused(self, scope: Scope) -> Response | None:
        """The answer to a request that goes no further: the trade of the key for a cookie. Raises Refusal."""
        headers = Headers(scope=scope)
        if not self.hosts.allow(headers.get("host", "")):
            raise Refusal(
                "this server is not known by that name; --allow_hosts NAME lets it be", status=421, code="unknown_host"
            )
        request = Request(scope)
        if scope["path"] == "/" and "key" in request.query_params:
            return self.trade(request.query_params["key"])
        if scope["path"].startswith(GUARDED):
            self.check_key(scope, headers)
        return None

    def trade(self, given: str) -> Response:
        """A cookie for the key, and the way to the page without the key in its address. Raises Refusal."""
        if not self.key.is_key(given):
            raise wrong_key("this link has another server's key; open the one that this server has printed")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            self.key.cookie_name, self.key.cookie, max_age=COOKIE_AGE, path="/", httponly=True, samesite="strict"
        )
        return answer

    def check_key(self, scope: Scope, headers: Headers) -> None:
        """Raise Refusal unless a request has the key, or comes from the page of a browser that had it."""
        if "authorization" in headers:
            kind, _, given = headers["authorization"].partition(" ")
            if kind.lower() != "bearer" or not self.key.is_key(given.strip()):
                raise wrong_key("Authorization: has not the key of this server")
            return
        cookies = cookie_parser(headers.get("cookie", ""))
        if not self.key.is_cookie(cookies.get(self.key.cookie_name, "")):
            raise wrong_key("no key: give Authorization: Bearer KEY, or open the link that the server has printed")
        if scope["method"] not in ("GET", "HEAD"):
            self.check_origin(headers)

    def check_origin(self, headers: Headers) -> None:
        """Raise Refusal unless this server's own page sent a request."""
        origin = urlsplit(headers.get("origin", ""))
        ours = origin.scheme in ("http", "https") and origin.netloc.lower() == headers.get("host", "").lower()
        if not ours or headers.get(OWN_HEADER) != "1":
            raise Refusal(
                "a browser's request must come from this server's own page; other programs give "
                "Authorization: Bearer KEY",
                status=403,
                code="foreign_origin",
            )


def wrong_key(message: str) -> Refusal:
    """What is told without the key."""
    return Refusal(message, status=401, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def refusal_response(refusal: Refusal) -> Response:
    """The answer that a refusal is."""
    return JSONResponse(refusal.body(), refusal.status, headers=refusal.headers)


async def json_of(request: Request) -> object:
    """The JSON of a request, read no further than it may go. Raises Refusal."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal("Content-Type: must be application/json", status=415)
    declared = request.headers.get("content-length", "")
    body = bytearray()
    size = 0
    if declared.isdigit() and int(declared) > READ_ON:
        raise too_large()
    async for chunk in request.stream():
        size += len(chunk)
        if size <= LIMIT:
            body += chunk
        elif size > READ_ON:
            break
    if size > LIMIT:
        raise too_large()
    try:
        return read_json(bytes(body))
    except ValueError as error:
        raise Refusal(f"the request {error}") from error


def too_large() -> Refusal:
    """What is told of a request beyond the limit."""
    return Refusal(f"the request is larger than {LIMIT:,} bytes", status=413, code="request_too_large")

"""What stands before an app: the hosts it answers to, the origin of what is sent, and the headers of every answer."""

import hashlib
import hmac
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from easyrlhf.web.hosts import Hosts
from easyrlhf.web.messages import refusal_response
from easyrlhf.web.refusals import Refusal

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


def same_text(one: bytes, other: bytes) -> bool:
    """Whether two texts are equal, in a time that tells neither where they differ nor how long they are."""
    return hmac.compare_digest(hashlib.sha256(one).digest(), hashlib.sha256(other).digest())


class Guard:
    """Stands before the app: refuses who may not ask, and puts its headers on every answer.

    origin  the server's own as browsers see it through a proxy, beside that of the Host header
    """

    def __init__(self, app: ASGIApp, hosts: Hosts, origin: str | None = None):
        self.app, self.hosts, self.origin = app, hosts, origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the app answer."""
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        headers = Headers(scope=scope)
        try:
            self.check_host(headers)
            answer = self.instead(scope, headers)
        except Refusal as refusal:
            answer = refusal_response(refusal)
        await (answer or self.app)(scope, receive, with_headers)

    def instead(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to a request that goes no further than here; None lets it pass. Raises Refusal."""
        raise NotImplementedError

    def check_host(self, headers: Headers) -> None:
        """Raise Refusal for a name that is not this server's."""
        if not self.hosts.allow(headers.get("host", "")):
            raise Refusal(
                "this server is not known by that name; --allow_hosts NAME lets it be", status=421, code="unknown_host"
            )

    def check_origin(self, headers: Headers, others: str = "") -> None:
        """Raise Refusal unless this server's own page sent a request; `others` says what other programs may do."""
        given = headers.get("origin", "")
        origin = urlsplit(given)
        ours = origin.scheme in ("http", "https") and origin.netloc.lower() == headers.get("host", "").lower()
        if not (ours or given == self.origin) or headers.get(OWN_HEADER) != "1":
            raise Refusal(
                f"a browser's request must come from this server's own page{others}", status=403, code="foreign_origin"
            )

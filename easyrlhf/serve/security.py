"""Who may ask: the key, and the browser's cookie."""

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Scope

from easyrlhf.web.guard import COOKIE_AGE, Guard, same_text
from easyrlhf.web.hosts import Hosts
from easyrlhf.web.refusals import Refusal

GUARDED = ("/v1", "/api")  # what needs the key


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


class KeyGuard(Guard):
    """Lets those pass who have the key."""

    def __init__(self, app: ASGIApp, key: Key, hosts: Hosts):
        super().__init__(app, hosts)
        self.key = key

    def instead(self, scope: Scope, headers: Headers) -> Response | None:
        """The trade of the key for a cookie. Raises Refusal."""
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
            self.check_origin(headers, "; other programs give Authorization: Bearer KEY")


def wrong_key(message: str) -> Refusal:
    """What is told without the key."""
    return Refusal(message, status=401, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

"""Whose page it is: the link of a person is traded for a cookie, and the cookie says who asks."""

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from easyrlhf.labels.rows import Annotator
from easyrlhf.labels.store import Store
from easyrlhf.labels.values import keyed
from easyrlhf.web.guard import COOKIE_AGE, Guard
from easyrlhf.web.refusals import Refusal

READING = ("GET", "HEAD")


class LinkGuard(Guard):
    """Lets pass what comes by a name of this server's, and what its own page sends; who it is, the routes ask."""

    def instead(self, scope: Scope, headers: Headers) -> None:
        """Raises Refusal for what another page sends."""
        if scope["method"] not in READING:
            self.check_origin(headers)


class Links:
    """The people of a store, by their links and cookies.

    secure  whether browsers reach the server by https alone, so that the cookie may go no other way
    """

    def __init__(self, store: Store, *, secure: bool = False):
        self.store, self.secure = store, secure
        self.cookie = "easyrlhf_labels_" + keyed(store.secret, "cookie name").hex()[:12]

    async def trade(self, token: str) -> Response:
        """A cookie for the token of a link, and the way to the page without it in the address. Raises Refusal."""
        own = await run_in_threadpool(self._second_token, token)
        if own is None:
            raise Refusal("this link is not known here; ask whoever gave it to you for a new one", status=401)
        answer = RedirectResponse("/", 303)
        rules = {"max_age": COOKIE_AGE, "path": "/", "httponly": True, "samesite": "strict", "secure": self.secure}
        answer.set_cookie(self.cookie, own, **rules)
        return answer

    def _second_token(self, token: str) -> str | None:
        """A token for the cookie, so that the cookie does not hold what the link holds."""
        who = self.store.annotator_of(token)
        return who and self.store.new_token(who.id)

    async def who(self, request: Request) -> Annotator | None:
        """Whose cookie a request has."""
        token = request.cookies.get(self.cookie)
        return await run_in_threadpool(self.store.annotator_of, token) if token else None

    async def one_of(self, request: Request, role: str) -> Annotator:
        """Who asks, in this role. Raises Refusal for anybody else."""
        who = await self.who(request)
        if who is None:
            raise Refusal("no link has been opened in this browser; open yours", status=401, code="no_link")
        if who.role != role:
            raise Refusal(f"this needs the link of a {role}", status=403, code="other_role")
        return who

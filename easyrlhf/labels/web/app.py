"""The routes of the labelling server."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from easyrlhf.errors import InputError
from easyrlhf.labels.rows import ANNOTATOR, REFEREE, Annotator
from easyrlhf.labels.web.bodies import check_body, item_of_body, label_of_body, text_of_body
from easyrlhf.labels.web.desk import Desk
from easyrlhf.labels.web.links import LinkGuard, Links
from easyrlhf.labels.web.organiser import Organiser
from easyrlhf.labels.web.wording import REASONS
from easyrlhf.web.hosts import Hosts
from easyrlhf.web.messages import FAULT_ANSWERS, health, json_of
from easyrlhf.web.page_files import page_file
from easyrlhf.web.refusals import Refusal

if TYPE_CHECKING:
    from easyrlhf.labels.web.talks import Talks  # which imports torch

PAGE = Path(__file__).parent / "page"
LIMIT = 64 * 1024  # bytes of a request
PAGES = Environment(loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined)


@dataclass(frozen=True)
class LabelServer:
    """What the routes answer with.

    talks   live conversations, in place of the store's items; None without --chat
    enough  called once there are as many labels as are wanted, or as there can be
    """

    desk: Desk
    links: Links
    organiser: Organiser
    talks: "Talks | None"
    enough: Callable[[], None]

    async def page(self, request: Request) -> Response:
        """GET /: the page of whoever asks; a link's token is traded for a cookie first."""
        if "key" in request.query_params:
            return await self.links.trade(request.query_params["key"])
        who = await self.links.who(request)
        if who is None:
            return HTMLResponse(html_of("gate", {"box": ""}), 401)
        if who.role == REFEREE:
            return HTMLResponse(html_of("organiser", {"box": ""}))
        return HTMLResponse(html_of("label", self.settings(who), guidelines=self.desk.guidelines))

    def settings(self, who: Annotator) -> dict[str, Any]:
        """What the script of the page knows; `box` tells what waits in one browser for several people apart."""
        return {
            "name": who.label,
            "box": f"{self.links.cookie[-12:]}.{who.id}",
            "flags": self.desk.flags,
            "reasons": REASONS,
            "chat": self.talks is not None,
        }

    async def me(self, request: Request) -> Response:
        """GET /api/me: who asks."""
        who = await self.links.who(request)
        if who is None:
            raise Refusal("no link has been opened in this browser", status=401, code="no_link")
        return JSONResponse({"name": who.label, "role": who.role})

    async def next(self, request: Request) -> Response:
        """POST /api/next: what is to be labelled now."""
        who, _ = await self.asked(request, ())
        return await self.given(who)

    async def label(self, request: Request) -> Response:
        """POST /api/label: the answer is sent when the label is on disk, and holds what comes next."""
        who, body = await self.asked(request, None)
        label = label_of_body(body, who.id)
        said = await or_refused(self.desk.keep, label)
        return await self.given(who, said)

    async def skip(self, request: Request) -> Response:
        """POST /api/skip."""
        who, body = await self.asked(request, ("id", "item", "reason"))
        await or_refused(self.desk.skip, who.id, item_of_body(body), text_of_body(body, "reason"))
        return await self.given(who)

    async def undo(self, request: Request) -> Response:
        """POST /api/undo: the last label is taken back, and its item given again."""
        who, _ = await self.asked(request, ())
        found = await or_refused(self.desk.undo, who.id)
        if self.talks:
            found["progress"]["left"] = None  # a conversation ends when the annotator ends it
        return JSONResponse(found)

    async def renew(self, request: Request) -> Response:
        """POST /api/renew: the item is still looked at."""
        who, body = await self.asked(request, ("item",))
        until = await run_in_threadpool(self.desk.store.renew, who.id, item_of_body(body))
        return JSONResponse({"yours": until is not None})

    async def say(self, request: Request) -> Response:
        """POST /api/say: a message of a live conversation; two answers come back."""
        who, body = await self.asked(request, ("text",))
        await or_refused(self.talking.say, who.id, text_of_body(body, "text"))
        return await self.given(who)

    async def new_conversation(self, request: Request) -> Response:
        """POST /api/new_conversation."""
        who, _ = await self.asked(request, ())
        await or_refused(self.talking.begin, who.id)
        return await self.given(who)

    @property
    def talking(self) -> "Talks":
        """Raises Refusal where there are no live conversations."""
        if self.talks is None:
            raise Refusal("no model talks here; start the server with --chat MODEL", status=404)
        return self.talks

    async def overview(self, request: Request) -> Response:
        """POST /api/overview: what the organiser sees."""
        await self.links.one_of(request, REFEREE)
        check_body(await json_of(request, LIMIT), ())
        return JSONResponse(await or_refused(self.organiser.overview))

    async def decide(self, request: Request) -> Response:
        """POST /api/decide: the organiser's word on an item."""
        who = await self.links.one_of(request, REFEREE)
        body = await json_of(request, LIMIT)
        found = await or_refused(self.organiser.decide, body, who.id)
        over = await run_in_threadpool(self.desk.has_given_all)  # it may have been the last that was open
        return JSONResponse(found, background=BackgroundTask(self.enough) if over else None)

    async def unpark(self, request: Request) -> Response:
        """POST /api/unpark: an item that was skipped goes back into the queue."""
        who = await self.links.one_of(request, REFEREE)
        body = await json_of(request, LIMIT)
        check_body(body, ("item",))
        return JSONResponse(await or_refused(self.organiser.unpark, item_of_body(body), who.id))

    async def asked(self, request: Request, known: tuple[str, ...] | None) -> tuple[Annotator, Any]:
        """Who asks, and the body, which has no other keys than these. Raises Refusal."""
        who = await self.links.one_of(request, ANNOTATOR)
        body = await json_of(request, LIMIT)
        if known is not None:
            check_body(body, known)
        return who, body

    async def given(self, who: Annotator, said: dict[str, Any] | None = None) -> Response:
        """What comes next, with what there is to say of the label before."""
        if await run_in_threadpool(self.desk.has_enough):
            return await self.last_words(who, said)
        if self.talks:
            found = await self.talks.given(who.id)
        else:
            found = await or_refused(self.desk.given, who.id)
            if found["task"] is None and await run_in_threadpool(self.desk.has_given_all):
                return await self.last_words(who, said)
        return JSONResponse((said or {}) | found)

    async def last_words(self, who: Annotator, said: dict[str, Any] | None) -> Response:
        """Thanks; when they are sent, the server ends."""
        thanks = await run_in_threadpool(self.desk.thanks, who.id)
        return JSONResponse((said or {}) | thanks, background=BackgroundTask(self.enough))


async def or_refused(work: Callable[..., Any], *values: Any) -> Any:
    """Run work on the store in a thread. Raises Refusal (422) for what it finds wrong."""
    try:
        return await run_in_threadpool(work, *values)
    except InputError as error:
        raise Refusal(str(error), status=422) from error


def html_of(name: str, settings: dict[str, Any], **more: Any) -> str:
    """A page as HTML."""
    return PAGES.get_template(f"{name}.html.jinja").render(page=name, settings=settings, **more)


async def static(request: Request) -> Response:
    """The files of the page, by name alone."""
    return page_file(PAGE, request.path_params["name"])


def make_label_app(server: LabelServer, hosts: Hosts, origin: str | None = None) -> ASGIApp:
    """The server as an ASGI application; `origin` is that of a proxy before it."""
    posts: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/api/next": server.next,
        "/api/label": server.label,
        "/api/skip": server.skip,
        "/api/undo": server.undo,
        "/api/renew": server.renew,
        "/api/say": server.say,
        "/api/new_conversation": server.new_conversation,
        "/api/overview": server.overview,
        "/api/decide": server.decide,
        "/api/unpark": server.unpark,
    }
    routes = [
        Route("/", server.page),
        Route("/static/{name}", static),
        Route("/health", health),
        Route("/api/me", server.me),
        *(Route(path, answer, methods=["POST"]) for path, answer in posts.items()),
    ]
    app = Starlette(routes=routes, exception_handlers=FAULT_ANSWERS)
    app.router.redirect_slashes = False
    return LinkGuard(app, hosts, origin)

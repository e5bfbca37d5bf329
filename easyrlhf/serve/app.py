"""The routes of the server."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from easyrlhf.config import ServeConfig
from easyrlhf.serve.answers import ChatForm, Conversation, TextForm, gathered
from easyrlhf.serve.decode import Busy, DecodeEngine, Stopped
from easyrlhf.serve.models import Served, model_ids
from easyrlhf.serve.protocol import chat_request, text_request
from easyrlhf.serve.scores import score_request
from easyrlhf.serve.security import Key, KeyGuard
from easyrlhf.tools.scoring import Scorer
from easyrlhf.web.hosts import Hosts
from easyrlhf.web.messages import FAULT_ANSWERS, health, json_of
from easyrlhf.web.page_files import page_file
from easyrlhf.web.refusals import Refusal, busy, stopping

LIMIT = 2**20  # bytes of a request
PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True)
class Service:
    """What the routes answer with.

    began  when the server was started, in seconds since 1970
    """

    config: ServeConfig
    models: dict[str, Served]
    engine: DecodeEngine
    scorer: Scorer | None
    version: str
    began: int

    async def list_models(self, request: Request) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [self.entry(name) for name in self.models]})

    async def one_model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        name = request.path_params["name"]
        if name not in self.models:
            raise Refusal(f"model {name!r}: is not served here", status=404, code="model_not_found")
        return JSONResponse(self.entry(name))

    def entry(self, name: str) -> dict[str, Any]:
        """A model, as OpenAI clients read it."""
        return {"id": name, "object": "model", "created": self.began, "owned_by": "easyrlhf"}

    async def about(self, request: Request) -> Response:
        """GET /api/about."""
        config = self.config
        models = [{"id": one.id, "title": one.title, "positions": one.positions} for one in self.models.values()]
        names = ("temperature", "top_p", "top_k", "repetition_penalty")
        defaults = {name: config.value(name) for name in names} | {"max_tokens": config.max_new_tokens}
        return JSONResponse(
            {
                "models": models,
                "reward_model": config.reward_model and model_ids([config.reward_model])[0],
                "defaults": defaults,
                "version": self.version,
            }
        )

    async def score(self, request: Request) -> Response:
        """POST /api/score."""
        body = await json_of(request, LIMIT)
        if self.scorer is None:
            raise Refusal("no reward model is served; start the server with --reward_model DIR", status=404)
        return JSONResponse(await asyncio.to_thread(score_request, body, self.scorer))

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        body = await json_of(request, LIMIT)
        return await self.answer(
            request, ChatForm(await asyncio.to_thread(chat_request, body, self.models, self.config))
        )

    async def texts(self, request: Request) -> Response:
        """POST /v1/completions."""
        body = await json_of(request, LIMIT)
        return await self.answer(
            request, TextForm(await asyncio.to_thread(text_request, body, self.models, self.config))
        )

    async def answer(self, request: Request, form: ChatForm | TextForm) -> Response:
        """Decode, and answer whole or piece by piece. Raises Refusal."""
        talk = Conversation(form.asked, self.engine, form.strip)
        try:
            talk.begin()
        except Busy:
            raise busy(self.engine.waiting()) from None
        except Stopped:
            raise stopping() from None
        if form.asked.stream:
            return StreamingResponse(events(talk, form), media_type="text/event-stream")
        try:
            return JSONResponse(form.whole(await unless_gone(request, gathered(talk))))
        finally:
            talk.leave()


async def events(talk: Conversation, form: ChatForm | TextForm) -> AsyncIterator[str]:
    """The events of a stream; a client that goes away ends it."""
    tokens: dict[int, int] = {}
    try:
        for opening in form.opening():
            yield event(opening)
        async for piece in talk.pieces():
            tokens[piece.index] = piece.tokens
            yield event(form.event(piece))
        if form.asked.include_usage:
            yield event(form.chunk([], sum(tokens.values())))
        yield "data: [DONE]\n\n"
    except Refusal as refusal:
        yield event(refusal.body())
    finally:
        talk.leave()


def event(value: dict[str, Any]) -> str:
    """One event of a stream."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def unless_gone(request: Request, work: Any) -> Any:
    """The result of a coroutine, for as long as the client waits. Raises ClientDisconnect."""
    done, gone = asyncio.ensure_future(work), asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            raise ClientDisconnect
        return done.result()
    finally:
        done.cancel()
        gone.cancel()


async def disconnected(request: Request) -> None:
    """Return when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def page(request: Request) -> Response:
    """The files of the page."""
    return page_file(PAGE, request.path_params.get("name", "index.html"))


def make_app(service: Service, key: Key, hosts: Hosts) -> ASGIApp:
    """The server as an ASGI application."""
    routes = [
        Route("/", page),
        Route("/static/{name}", page),
        Route("/health", health),
        Route("/v1/models", service.list_models),
        Route("/v1/models/{name:path}", service.one_model),
        Route("/v1/chat/completions", service.chat, methods=["POST"]),
        Route("/v1/completions", service.texts, methods=["POST"]),
        Route("/api/about", service.about),
        Route("/api/score", service.score, methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers=FAULT_ANSWERS)
    app.router.redirect_slashes = (
        False  # an address that is nearly right is wrong: clients lose bodies and keys on the way
    )
    return KeyGuard(app, key, hosts)


def new_service(config: ServeConfig, models: list[Served], scorer: Scorer | None, version: str) -> Service:
    """The service of these models, its decoding begun."""
    engine = DecodeEngine(models, config.batch_size, config.max_waiting)
    engine.start()
    return Service(config, {one.id: one for one in models}, engine, scorer, version, int(time.time()))

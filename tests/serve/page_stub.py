"""What the web page needs of a server, without models: answers, rewards and faults that a test decides on."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.routing import Route

import easyrlhf
from easyrlhf.web.page_files import page_file

PAGE = Path(easyrlhf.__file__).parent / "serve" / "page"
CSP = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:"
DEFAULTS = {"temperature": 0.7, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "max_tokens": 64}


class Refusal(Exception):
    """An answer of the server that is a fault: a status, an error object, headers."""

    def __init__(self, status: int, error: dict, **headers: str):
        self.response = JSONResponse({"error": error}, status, {k.replace("_", "-"): v for k, v in headers.items()})


class Stub:
    """A server whose answers are functions of what is asked.

    answer     request body -> pieces of the answer; a piece None breaks the stream off, "length" as the last item of
               a tuple is the reason why the answer ends; may raise Refusal
    score      messages -> what /api/score gives
    asked      bodies of the requests for answers
    scored_as  whether each answer that was scored had ended by itself
    pause      seconds between two pieces
    gate       pieces wait until it is set
    """

    def __init__(self):
        self.models = [{"id": name, "title": name, "positions": 2048} for name in ("sft", "ppo")]
        self.reward_model = "rm"
        self.answer: Callable = lambda body: ["I am ", f"{body['model']}, ", f"seed {body['seed']}."]
        self.score: Callable = lambda messages: {"score": float(len(messages[-1]["content"])), "note": None}
        self.asked: list[dict] = []
        self.scored_as: list[bool] = []
        self.pause = 0.0
        self.gate: threading.Event | None = None

    def app(self) -> Starlette:
        routes = [
            Route("/", lambda request: FileResponse(PAGE / "index.html")),
            Route("/static/{name}", lambda request: page_file(PAGE, request.path_params["name"])),
            Route("/api/about", self.about),
            Route("/v1/chat/completions", self.completions, methods=["POST"]),
            Route("/api/score", self.scored, methods=["POST"]),
        ]
        app = Starlette(routes=routes)

        async def with_policy(scope, receive, send):
            async def sending(message):
                if message["type"] == "http.response.start":
                    message["headers"].append((b"content-security-policy", CSP.encode()))
                    message["headers"].append((b"cache-control", b"no-store"))
                await send(message)

            await app(scope, receive, sending)

        return with_policy

    async def about(self, request):
        about = {"models": self.models, "reward_model": self.reward_model, "defaults": DEFAULTS, "version": "0.1.0"}
        return JSONResponse(about)

    async def scored(self, request):
        body = await request.json()
        self.scored_as.append(body["finished"])
        return JSONResponse(self.score(body["messages"]))

    async def completions(self, request):
        assert request.headers["x-easyrlhf"] == "1"
        assert request.headers["content-type"] == "application/json"
        body = await request.json()
        self.asked.append(body)
        try:
            pieces = self.answer(body)
        except Refusal as refusal:
            return refusal.response
        pieces, finish = pieces if isinstance(pieces, tuple) else (pieces, "stop")
        return StreamingResponse(self.stream(pieces, finish), media_type="text/event-stream")

    def stream(self, pieces, finish):
        yield event({"role": "assistant", "content": ""})
        for piece in pieces:
            if piece is None:
                return
            time.sleep(self.pause)
            if self.gate:
                self.gate.wait(10)
            yield event({"content": piece})
        yield event({}, finish)
        yield "data: [DONE]\n\n"


def event(delta: dict, finish: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps({'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"


class Running:
    """An application served from a thread, on a port of its own."""

    def __init__(self, app):
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"

    def close(self):
        self.server.should_exit = True
        self.thread.join(5)

"""The class of docs/openenv.md against a stub of OpenEnv's wire: a session for each episode, within their number.

websocket and wsproto come with selenium.
"""

import asyncio
import json
import random
import re
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import uvicorn
import websocket
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from easyrlhf.errors import ServiceError
from easyrlhf.userfile import load_module

PAGE = Path(__file__).parents[2] / "docs" / "openenv.md"
WORDS = ("red", "blue", "green", "cat")


class Server:
    """Sessions at /ws, at most so many; each says a word, and is done when it is repeated or after two answers.

    open    sessions now
    seen    messages, session by session
    """

    def __init__(self, most: int, quiet: bool = False):
        self.most, self.quiet, self.open, self.seen = most, quiet, 0, []

    async def session(self, socket) -> None:
        await socket.accept()
        if self.open == self.most:
            if not self.quiet:
                await socket.send_text(error("Server at capacity: 1/1 sessions active.", "CAPACITY_REACHED"))
            await socket.close(1000)
            return
        self.open += 1
        self.seen.append(messages := [])
        try:
            await self.answer(socket, messages)
        finally:
            self.open -= 1

    async def answer(self, socket, messages: list) -> None:
        word, answers = None, 0
        while True:
            message = json.loads(await socket.receive_text())
            messages.append(message)
            if message["type"] == "close":
                return
            if message["type"] == "reset":
                word = random.Random(message["data"]["seed"]).choice(WORDS)
                await socket.send_text(observed(f"Say {word}.", 0.0, False))
            elif "text" not in message["data"]:
                await socket.send_text(error("Invalid action: text is missing", "VALIDATION_ERROR"))
            else:
                answers += 1
                right = word in message["data"]["text"]
                await socket.send_text(observed("Once more.", right / answers, right or answers == 2))


def observed(text: str, reward: float, done: bool) -> str:
    return json.dumps({"type": "observation", "data": {"observation": {"text": text}, "reward": reward, "done": done}})


def error(message: str, code: str) -> str:
    return json.dumps({"type": "error", "data": {"message": message, "code": code, "errors": []}})


class Client:
    """What the class uses of openenv's GenericEnvClient, over the same wire."""

    def __init__(self, base_url: str):
        self.url = base_url.replace("http", "ws", 1) + "/ws"

    async def connect(self) -> None:
        try:
            self.socket = await asyncio.to_thread(websocket.create_connection, self.url, timeout=10)
        except OSError as error:
            raise ConnectionError(f"Failed to connect to {self.url}: {error}") from error

    async def ask(self, kind: str, data: dict) -> SimpleNamespace:
        def exchange() -> str:
            self.socket.send(json.dumps({"type": kind, "data": data}))
            return self.socket.recv()

        try:
            said = json.loads(await asyncio.to_thread(exchange) or "null")
        except websocket.WebSocketException as error:
            raise ConnectionError("received 1000 (OK)") from error
        if said is None:
            raise ConnectionError("received 1000 (OK)")
        if said["type"] == "error":
            raise RuntimeError(f"Server error: {said['data']['message']} (code: {said['data']['code']})")
        return SimpleNamespace(**said["data"])

    async def reset(self, seed: int) -> SimpleNamespace:
        return await self.ask("reset", {"seed": seed})

    async def step(self, action: dict) -> SimpleNamespace:
        return await self.ask("step", action)

    async def close(self) -> None:
        self.socket.send(json.dumps({"type": "close"}))
        await asyncio.to_thread(self.socket.close)


@pytest.fixture
def serve():
    """serve(**Server) -> (the server, its address)."""
    running = []

    def start(**settings):
        stub = Server(**settings)
        app = Starlette(routes=[WebSocketRoute("/ws", stub.session)])
        config = uvicorn.Config(app, port=0, log_level="error", ws="wsproto", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        running.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        return stub, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def on_server(tmp_path, monkeypatch):
    """on_server(address) -> the class as the page prints it."""

    def load(address: str) -> type:
        package = ModuleType("openenv")
        package.GenericEnvClient = Client
        monkeypatch.setitem(sys.modules, "openenv", package)
        monkeypatch.setenv("OPENENV_URL", address)
        (code,) = re.findall(r"```python\n# my_openenv.py\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
        (tmp_path / "my_openenv.py").write_text(code)
        return load_module(tmp_path / "my_openenv.py").OnServer

    return load


def closed(stub: Server) -> list[list[str]]:
    """The kinds of messages of each session, once all are closed."""
    deadline = time.monotonic() + 10
    while stub.open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stub.open == 0
    return [[message["type"] for message in session] for session in stub.seen]


def test_each_episode_is_a_session_with_its_seed_and_is_closed(serve, on_server, player, sampler, play):
    stub, address = serve(most=16)
    said = sampler(lambda number, turn: "It is red." if number % 2 else "What?")
    samples = play(player(on_server(address), generations=2, workers=8), said, *[{}] * 8)
    seeds = [session[0]["data"]["seed"] for session in stub.seen]
    assert len(set(seeds)) == 4 and sorted(seeds)[::2] == sorted(seeds)[1::2]  # a task for each two completions
    for number, episode in enumerate(samples.episodes):
        word = re.search(r"Say (\w+)\.", episode.prompt[-1]["content"])[1]
        right = number % 2 == 1 and word == "red"
        assert (episode.reward, episode.turns) == ((1.0, 1) if right else (0.0, 2))
        asked = [turn["content"] for turn in episode.messages if turn["role"] == "user"]
        assert asked == ([] if right else ["Once more."])
    for kinds, session in zip(closed(stub), stub.seen, strict=True):
        assert kinds[0] == "reset" and kinds[-1] == "close" and set(kinds[1:-1]) == {"step"}
        assert all(set(message["data"]) == {"text"} for message in session[1:-1])


@pytest.mark.parametrize("quiet", [False, True])
def test_too_many_sessions_end_with_what_to_do_and_fewer_at_a_time_do_not(
    serve, on_server, player, sampler, play, quiet
):
    stub, address = serve(most=1, quiet=quiet)
    environment = on_server(address)
    with pytest.raises(ServiceError) as failed:
        play(player(environment), sampler(["What?", "What?"]), {}, {}, {})
    why = "received 1000" if quiet else "CAPACITY_REACHED"
    assert why in str(failed.value)
    assert "--environment_concurrency must not be above its max_concurrent_envs" in str(failed.value)
    # another one: a session that was about to open as the run failed may still be there
    stub, address = serve(most=1, quiet=quiet)
    environment = on_server(address)
    samples = play(player(environment, concurrency=1), sampler(["What?", "What?"]), {}, {}, {})
    assert [one.turns for one in samples.episodes] == [2, 2, 2]
    assert closed(stub) == [["reset", "step", "step", "close"]] * 3


def test_no_server_is_said_with_its_address(on_server, player, sampler, play):
    with pytest.raises(ServiceError, match=r"reset raised RuntimeError: http://127.0.0.1:9 gave no session \(Failed"):
        play(player(on_server("http://127.0.0.1:9")), sampler(["What?"]), {})

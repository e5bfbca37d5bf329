"""The labelling server in this process, on a store of a few items; and in a browser."""

import re
import socket
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from easyrlhf.config import LabelServeConfig
from easyrlhf.labels.rows import ANNOTATOR, REFEREE, NewItem
from easyrlhf.labels.store import Store
from easyrlhf.labels.web.app import make_label_app
from easyrlhf.tools.labelling.serve import load_talks, new_desk, new_server
from easyrlhf.web.hosts import Hosts
from easyrlhf.web.http_server import AppServer

SECRET = "outputs/secret-model"  # where answers come from: nothing of it may be seen before the label


def turns(text: str, role: str = "assistant") -> list[dict]:
    return [{"role": role, "content": text}]


def new_pair(number: int, first: str = "", second: str = "") -> NewItem:
    """A pair, the first answer of which its source and its reward call the better one."""
    answers = [turns(first or f"right {number}"), turns(second or f"wrong {number}")]
    sources = [{"model": SECRET, "reward": 7.25}, {"model": SECRET, "reward": -7.25}]
    return NewItem("pair", turns(f"question {number}", "user"), answers, sources, random=True)


def new_ranking(number: int, answers: int = 4) -> NewItem:
    texts = [turns(f"answer {letter}") for letter in "pqrstuvwx"[:answers]]
    return NewItem("ranking", turns(f"rank {number}", "user"), texts, [{"model": SECRET}] * answers)


@pytest.fixture
def desk_of(tmp_path):
    """desk_of(items, talks_of, **settings) -> a server of these: store, app, tokens and ids by name, enough.

    talks_of(desk, config) makes its live conversations
    """
    stores = []

    def make(items=(), talks_of=lambda desk, config: None, **settings) -> SimpleNamespace:
        config = LabelServeConfig(labels=str(tmp_path / "labels"), **settings)
        store = Store(config.labels, create=True)
        store.secret = b"the same in every run"  # from which the order of answers is drawn
        stores.append(store)
        store.add_items(items)
        names = {name: store.annotator(name, ANNOTATOR) for name in config.people}
        names["organiser"] = store.annotator("organiser", REFEREE)
        enough: list[bool] = []
        desk = new_desk(store, config, "Be kind, and say what is true. <b>Bold</b>")
        server = new_server(config, desk, talks_of(desk, config), lambda: enough.append(True))
        tokens = {name: store.new_token(one.id) for name, one in names.items()}
        app = make_label_app(server, Hosts("127.0.0.1", ["testserver"]), config.public_origin)
        ids = {name: one.id for name, one in names.items()}
        return SimpleNamespace(store=store, app=app, server=server, tokens=tokens, ids=ids, enough=enough)

    yield make
    for store in stores:
        store.close()


@pytest.fixture(scope="session")
def folders(tmp_path_factory, tiny_lm, tokenizer):
    """A folder with two tiny models, one and two, that fit the ChatML tokenizer."""
    root = tmp_path_factory.mktemp("talks")
    for seed, name in enumerate(("one", "two")):
        tiny_lm(vocab=len(tokenizer), seed=seed).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


@pytest.fixture
def talks_of(folders):
    """talks_of(desk, config) -> the live conversations of a server."""
    engines = []

    def make(desk, config):
        talks = load_talks(desk, config)
        engines.append(talks.engine)
        return talks

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def person():
    """person(desk, name) -> a browser that has opened the link: post(path, body) gives status and JSON."""
    from starlette.testclient import TestClient

    def open_link(desk, name: str = "me") -> SimpleNamespace:
        client = TestClient(desk.app, headers={"Origin": "http://testserver", "X-Easyrlhf": "1"})
        got = client.get("/", params={"key": desk.tokens[name]})
        assert got.status_code == 200 and str(got.url) == "http://testserver/"

        def post(path: str, body: dict | None = None, **more) -> tuple[int, dict]:
            answer = client.post(f"/api/{path}", json=body or {}, **more)
            return answer.status_code, answer.json()

        return SimpleNamespace(client=client, post=post, page=got.text)

    return open_link


@contextmanager
def running(desk):
    """The server at an address of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = AppServer(desk.app)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


def shown_texts(task: dict) -> list[str]:
    """The texts of the answers of a task, as the page gets them."""
    return [answer[0]["content"] for answer in task["answers"]]


def value_for_right(task: dict, strength: int) -> int:
    """The value that prefers the answer whose text begins with "right", by this strength."""
    return strength if re.match("right", shown_texts(task)[0]) else -strength

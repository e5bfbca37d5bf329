"""A server in a thread, on tiny random models, with a reward model; the web chat in a browser."""

import socket
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from easyrlhf.config import ServeConfig
from easyrlhf.models.value_head import new_head, save_head
from easyrlhf.serve.app import make_app, new_service
from easyrlhf.serve.http_server import ChatServer
from easyrlhf.serve.models import load_served, read_models
from easyrlhf.serve.security import Key
from easyrlhf.tools.scoring import load_scorer
from easyrlhf.web.hosts import Hosts
from tests.serve.page_stub import Running, Stub

KEY = "a-key-of-the-tests"


@contextmanager
def run_server(*models, **settings):
    """A server of these folders: url, key, service."""
    config = ServeConfig(model=",".join(map(str, models)), devices="cpu", **settings)
    scorer = load_scorer(config) if config.reward_model else None
    service = new_service(config, load_served(read_models(config)), scorer, "0")
    listener = socket.create_server(("127.0.0.1", 0))
    server = ChatServer(make_app(service, Key(KEY), Hosts("127.0.0.1", ["models.example"])), service.engine)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        names = {one.id: one.title for one in service.models.values()}
        yield SimpleNamespace(url=url, key=KEY, service=service, engine=service.engine, **names)
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="package")
def folders(tmp_path_factory, tiny_lm, tokenizer):
    """Two tiny models and a reward model that fit the ChatML tokenizer."""
    root = tmp_path_factory.mktemp("serve")
    for seed, name in enumerate(("one", "two", "rm")):
        lm = tiny_lm(vocab=len(tokenizer), seed=seed)
        lm.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    torch.manual_seed(0)
    save_head(new_head(lm), root / "rm")
    return SimpleNamespace(one=root / "one", two=root / "two", rm=root / "rm", root=root)


@pytest.fixture(scope="package")
def serving():
    """serving(*folders, **settings) -> a context with a server of these: url, key, service, engine."""
    return run_server


@pytest.fixture(scope="package")
def server(folders):
    """The server that most tests talk to."""
    with run_server(folders.one, folders.two, reward_model=str(folders.rm), max_new_tokens=24, max_waiting=32) as found:
        yield found


@pytest.fixture(scope="package")
def client(server):
    """OpenAI's own client, which tries nothing twice."""
    from openai import OpenAI

    return OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)


@pytest.fixture(scope="package")
def driver(tmp_path_factory):
    """Chromium without a window."""
    from tests.serve.browser import open_browser

    found = open_browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.quit()


@pytest.fixture
def stub():
    """A server of its own for each test, whose address no other test's storage has."""
    stub = Stub()
    stub.running = Running(stub.app())
    yield stub
    stub.running.close()


@pytest.fixture
def chat(driver, stub, tmp_path):
    """The page, as it is opened for the first time; what the browser logs afterwards must be no fault of the page."""
    from tests.serve.browser import Chat, resize

    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    resize(driver, 1400)
    driver.get_log("browser")
    driver.get(stub.running.url)
    chat = Chat(driver, stub, tmp_path)
    chat.ready()
    yield chat
    said = [entry["message"] for entry in driver.get_log("browser") if "Content Security" in entry["message"]]
    assert not said
    driver.get("about:blank")

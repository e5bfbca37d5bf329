"""easyrlhf serve: models behind an OpenAI-compatible server, with a page; docs/serving.md."""

import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec

from easyrlhf.config import ServeConfig
from easyrlhf.config.lists import split_list
from easyrlhf.config.serving import KEY
from easyrlhf.errors import InputError

KEY_VARIABLE = "EASYRLHF_API_KEY"
NEEDED = ("starlette", "uvicorn")


def serve_models(config: ServeConfig) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises InputError for models, a key or an address that cannot be used."""
    if any(find_spec(name) is None for name in NEEDED):
        raise InputError("easyrlhf serve needs a web server, which is not installed; pip install 'easyrlhf[serve]'")
    from easyrlhf.serve.app import make_app, new_service
    from easyrlhf.serve.http_server import run_server
    from easyrlhf.serve.models import load_served, read_models
    from easyrlhf.serve.security import Hosts, Key, new_key
    from easyrlhf.tools.scoring import load_scorer

    given = given_key(config)
    with listening(config.host, config.port) as listener:
        read = read_models(config)
        scorer = load_scorer(config) if config.reward_model else None
        models = load_served(read)
        service = new_service(config, models, scorer, version("easyrlhf"))
        key = given or new_key()
        app = make_app(service, Key(key), Hosts(config.host, split_list(config.allow_hosts)))
        print("\n".join(first_words(config, models, listener.getsockname()[1], None if given else key)), flush=True)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            run_server(app, service.engine, listener)
        print("ended", flush=True)


def given_key(config: ServeConfig) -> str | None:
    """The key of the flag or the environment. Raises InputError for one that fits into no link."""
    found = config.api_key or os.environ.get(KEY_VARIABLE)
    if found and not KEY.fullmatch(found):
        raise InputError(
            f"{KEY_VARIABLE}: must be of letters, digits and . _ ~ - alone; it stands in links and headers"
        )
    return found or None


def listening(host: str, port: int) -> socket.socket:
    """A socket at this address. Raises InputError."""
    place = f"--host {host} --port {port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"{place}: is no address of this machine ({error.strerror}); leave --host out") from error
    try:
        if sys.platform != "win32":  # there it lets two programs have one port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()
    except OSError as error:
        found.close()
        raise InputError(f"{place}: cannot listen there ({error.strerror}); give another --port") from error
    return found


def first_words(config: ServeConfig, models, port: int, new_key: str | None) -> list[str]:
    """What is said when all is ready."""
    from easyrlhf.serve.security import in_url, is_local, is_wildcard

    host = "127.0.0.1" if is_wildcard(config.host) else in_url(config.host)
    url = f"http://{host}:{port}"
    lines = [f"{one.title} is ready: model {one.id}{'' if one.adapter is None else ', an adapter'}" for one in models]
    if config.reward_model:
        lines.append(f"{config.reward_model} scores answers")
    lines.append(f"open {url}/?key={new_key or '…, with your key'}")
    lines.append(f"OpenAI clients: base_url {url}/v1, api_key {new_key or 'your key'}")
    if not is_local(config.host):
        lines.append(
            f"warning: --host {config.host}: questions, answers and the key cross the network as plain HTTP, which can "
            f"be read. Safer: leave --host out, and on the other machine ssh -L {port}:127.0.0.1:{port} THIS_MACHINE"
        )
    return [*lines, "Ctrl-C ends it"]

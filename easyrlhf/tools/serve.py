"""easyrlhf serve: models behind an OpenAI-compatible server, with a page; docs/serving.md."""

import os
from contextlib import suppress
from importlib.metadata import version

from easyrlhf.config import ServeConfig
from easyrlhf.config.lists import split_list
from easyrlhf.config.serving import KEY
from easyrlhf.errors import InputError
from easyrlhf.web.listening import check_installed, listening, plain_http_warning

KEY_VARIABLE = "EASYRLHF_API_KEY"


def serve_models(config: ServeConfig) -> None:
    """Serve until Ctrl-C or SIGTERM. Raises InputError for models, a key or an address that cannot be used."""
    check_installed("easyrlhf serve", "serve")
    from easyrlhf.serve.app import make_app, new_service
    from easyrlhf.serve.http_server import run_server
    from easyrlhf.serve.models import load_served, read_models
    from easyrlhf.serve.security import Key
    from easyrlhf.tools.scoring import load_scorer
    from easyrlhf.web.guard import new_key
    from easyrlhf.web.hosts import Hosts
    from easyrlhf.web.http_server import term_as_interrupt

    given = given_key(config)
    with listening(config.host, config.port) as listener:
        read = read_models(config)
        scorer = load_scorer(config) if config.reward_model else None
        models = load_served(read)
        service = new_service(config, models, scorer, version("easyrlhf"))
        key = given or new_key()
        app = make_app(service, Key(key), Hosts(config.host, split_list(config.allow_hosts)))
        print("\n".join(first_words(config, models, listener.getsockname()[1], None if given else key)), flush=True)
        term_as_interrupt()
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


def first_words(config: ServeConfig, models, port: int, new_key: str | None) -> list[str]:
    """What is said when all is ready."""
    from easyrlhf.web.hosts import in_url, is_local, is_wildcard

    host = "127.0.0.1" if is_wildcard(config.host) else in_url(config.host)
    url = f"http://{host}:{port}"
    lines = [f"{one.title} is ready: model {one.id}{'' if one.adapter is None else ', an adapter'}" for one in models]
    if config.reward_model:
        lines.append(f"{config.reward_model} scores answers")
    lines.append(f"open {url}/?key={new_key or '…, with your key'}")
    lines.append(f"OpenAI clients: base_url {url}/v1, api_key {new_key or 'your key'}")
    if not is_local(config.host):
        lines.append(plain_http_warning(config.host, port, "questions, answers and the key"))
    return [*lines, "Ctrl-C ends it"]

"""easyrlhf label serve: a page on which people label; docs/labelling.md."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from easyrlhf.config import LabelServeConfig
from easyrlhf.config.label_serving import ORGANISER
from easyrlhf.config.lists import split_list
from easyrlhf.errors import InputError, RunStopped
from easyrlhf.files import hold_file
from easyrlhf.labels.progress import progress_of
from easyrlhf.labels.rows import ANNOTATOR, REFEREE
from easyrlhf.labels.store import Store
from easyrlhf.web.listening import check_installed, listening, plain_http_warning

if TYPE_CHECKING:
    from easyrlhf.labels.web.app import LabelServer
    from easyrlhf.labels.web.desk import Desk
    from easyrlhf.labels.web.talks import Talks

LOCK = "serve.lock"
NO_GUIDELINES = "There are none. Prefer the answer that helps more, is true, and harms nobody."


def serve_labels(config: LabelServeConfig) -> None:
    """Serve until Ctrl-C, SIGTERM or --until. Raises InputError, and RunStopped where --until is not reached."""
    check_installed("easyrlhf label serve", "label")
    guidelines = guidelines_text(config.guidelines)
    with ExitStack() as stack:
        store = stack.enter_context(Store(config.labels, create=bool(config.chat)))
        taken = (
            f"--labels {config.labels}: another easyrlhf label serve is at work there; end it, or give another folder"
        )
        stack.enter_context(hold_file(store.folder / LOCK, taken))
        people = [store.annotator(name, ANNOTATOR) for name in config.people]
        referee = store.annotator(ORGANISER, REFEREE)
        check_items(store, config)
        desk = new_desk(store, config, guidelines)
        if ended := words_of_the_end(desk):
            print(f"{store.file}: {ended}")
            return
        listener = stack.enter_context(listening(config.host, config.port))
        talks = load_talks(desk, config) if config.chat else None
        if talks:
            stack.callback(talks.engine.close)
        links = [(one.label, store.new_token(one.id)) for one in (*people, referee)]
        print("\n".join(words_of_the_start(config, desk, listener.getsockname()[1], links)), flush=True)
        run_until_enough(config, desk, talks, listener)
        given = desk.people_labels()
        ended = words_of_the_end(desk)
        if config.until and not ended:
            raise RunStopped(f"{given:,} of {config.until:,} labels are there. The same command goes on")
        print(f"ended; {ended or f'{given:,} labels of people are there'}", flush=True)


def words_of_the_end(desk: "Desk") -> str | None:
    """Why a server with --until has nothing more to wait for; None where it has."""
    given = f"{desk.people_labels():,} labels of people are there"
    if desk.has_enough():
        return f"{given}, as many as --until asks for"
    if desk.has_given_all():
        return (
            f"{given}, not the {desk.until:,} of --until: all that is left was skipped by everyone who labels, or was "
            "decided. Name more --annotators, or import more items, to get more"
        )
    return None


def run_until_enough(config: LabelServeConfig, desk: "Desk", talks: "Talks | None", listener) -> None:
    """Serve until a signal, or until there are enough labels."""
    from easyrlhf.labels.web.app import make_label_app
    from easyrlhf.web.hosts import Hosts
    from easyrlhf.web.http_server import AppServer, term_as_interrupt

    def enough() -> None:
        server.should_exit = True

    public = [urlsplit(config.public_url).hostname] if config.public_url else []
    hosts = Hosts(config.host, [*split_list(config.allow_hosts), *public])
    app = make_label_app(new_server(config, desk, talks, enough), hosts, config.public_origin)
    server = AppServer(app, talks.engine.close if talks else lambda: None)
    term_as_interrupt()
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listener])


def new_server(
    config: LabelServeConfig, desk: "Desk", talks: "Talks | None", enough: Callable[[], None]
) -> "LabelServer":
    """What the routes answer with."""
    from easyrlhf.labels.web.app import LabelServer
    from easyrlhf.labels.web.links import Links
    from easyrlhf.labels.web.organiser import Organiser

    links = Links(desk.store, secure=config.public_url is not None)
    return LabelServer(desk, links, Organiser(desk.store, config.overlap, config.scale), talks, enough)


def new_desk(store: Store, config: LabelServeConfig, guidelines: str) -> "Desk":
    """The store, as annotators meet it. Raises InputError for more flags than there are keys."""
    from easyrlhf.labels.web.desk import Desk
    from easyrlhf.labels.web.wording import flag_keys

    keys = flag_keys(list(dict.fromkeys(split_list(config.flags))))
    flags = [{"name": name, "label": name.replace("_", " "), "key": key} for name, key in keys.items()]
    there = {store.annotator(name, ANNOTATOR).id for name in config.people}
    talks = config.chat is not None
    return Desk(store, config.scale, config.overlap, config.until, flags, guidelines, config.reveal, there, talks)


def load_talks(desk: "Desk", config: LabelServeConfig) -> "Talks":
    """The models of live conversations, loaded. Raises InputError."""
    from easyrlhf.labels.web.talks import Talks
    from easyrlhf.serve.decode import DecodeEngine
    from easyrlhf.serve.models import load_served, read_models

    serving = config.serving()
    models = load_served(read_models(serving))
    engine = DecodeEngine(models, serving.batch_size, serving.max_waiting)
    engine.start()
    return Talks(desk, serving, models, engine)


def guidelines_text(path: str | None) -> str:
    """What the guidelines say. Raises InputError for a file that is no text."""
    if path is None:
        return NO_GUIDELINES
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"--guidelines {path}: cannot be read ({why}); give a text file") from error


def check_items(store: Store, config: LabelServeConfig) -> None:
    """Raise InputError where there is nothing to label, or --until asks for more labels than items and people give."""
    if config.chat:
        return
    progress = progress_of(store, config.overlap)
    if not progress.items:
        raise InputError(
            f"--labels {config.labels}: holds nothing to label; easyrlhf label import FILE --labels {config.labels} "
            "brings it in"
        )
    if config.until is None:
        return
    people = sum(one.role == ANNOTATOR for one in store.annotators())
    each, most = min(config.overlap, people), most_labels(store, config.overlap, people)
    if config.until > most:
        raise InputError(
            f"--until {config.until}: the items labelled by {each} of {people} people give {most:,} labels at most; "
            "lower it, raise --overlap, name more --annotators, or import more items"
        )


def most_labels(store: Store, overlap: int, people: int) -> int:
    """How many labels of people there can be: those there are, and those that items have room for, skipped or not.

    What is skipped later cannot be known, and no setting is wrong where it is: the server ends earlier then.
    """
    given = Counter(label.item for label in store.labels() if label.role == ANNOTATOR)
    room = {
        item.id: people if item.truth is not None else min(overlap, people)
        for item in store.items()
        if item.conversation is None
    }
    return sum(max(given[item], room.get(item, 0)) for item in given.keys() | room.keys())


def words_of_the_start(config: LabelServeConfig, desk: "Desk", port: int, links: list[tuple[str, str]]) -> list[str]:
    """What is said when all is ready."""
    from easyrlhf.web.hosts import in_url, is_local, is_wildcard

    host = "127.0.0.1" if is_wildcard(config.host) else in_url(config.host)
    url = config.public_origin or f"http://{host}:{port}"
    if config.chat:
        what = f"conversations with {' and '.join(config.models)}"
    else:
        progress = progress_of(desk.store, config.overlap)
        what = ", ".join(f"{count:,} {kind if count == 1 else PLURALS[kind]}" for kind, count in progress.items.items())
        what += f"; {config.overlap} {'label' if config.overlap == 1 else 'labels'} each"
    lines = [f"{desk.store.file}: {what}; {desk.people_labels():,} labels of people are there"]
    wide = max(len(name) for name, _ in links)
    lines += [f"{name:<{wide}}  {url}/?key={token}" for name, token in links]
    if not is_local(config.host):
        lines.append(
            plain_http_warning(config.host, port, "answers, labels and links")
            + ", or a proxy with https and --public_url https://NAME"
        )
    return [*lines, "Ctrl-C ends it; what is labelled is on disk"]


PLURALS = {"pair": "pairs", "ranking": "rankings", "answer": "answers", "chat": "turns of conversations"}

"""The program of a worker process: loads reward functions and calls them when asked. Loads no torch of its own."""

import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

from easyrlhf.rewards.asides import LOGGING, Logged
from easyrlhf.rewards.batch import as_number
from easyrlhf.rewards.functions import asked_asides, call, fault, load_functions
from easyrlhf.streams import outlast_readers
from easyrlhf.userfile import Function


def serve_requests() -> None:
    """Answer (place, keywords) with ("scores", list, logged), ("no list", its type, logged) or ("fault", text, logged).

    Until the other side is gone.

    The connection is the file descriptor of the last argument; the first message on it lists the functions.
    """
    outlast_readers()  # what a function prints must not end a run
    descriptor = int(sys.argv[-1])
    os.set_inheritable(descriptor, False)
    for number in (signal.SIGINT, signal.SIGTERM):  # the run decides when its workers end, and may save first
        signal.signal(number, lambda *_: None)
    threading.Thread(target=end_with_parent, daemon=True).start()
    connection = Connection(descriptor)
    functions: list[Function] | str
    try:
        specs = connection.recv()
        try:
            functions = load_functions(specs)
        except Exception as error:
            functions = f"{type(error).__name__}: {error}"
        while True:
            place, keywords = connection.recv()
            broken = isinstance(functions, str)
            connection.send(("fault", functions, Logged()) if broken else answer(functions[place], keywords))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def end_with_parent() -> None:
    """End this process and all it started once the run that started it is gone, whatever a function is doing."""
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def answer(function: Function, keywords: dict[str, Any]) -> tuple[str, Any, Logged]:
    """What to send for one call; what it logs is logged here, and sent along."""
    logged = Logged(len(keywords["completions"]))
    keywords = keywords | {name: getattr(logged, name) for name in asked_asides(function, keywords) if name in LOGGING}
    try:
        scores = call(function, keywords)
        if not isinstance(scores, list):
            return "no list", type(scores).__name__, logged
        return "scores", [sendable(score) for score in scores], logged
    except BaseException as error:
        return "fault", fault(error, function), logged


def sendable(score: Any) -> Any:
    """A score as something that can be sent: itself if it is plain, a number if it is one, else its text."""
    if score is None or isinstance(score, bool | int | float | str):
        return score
    number = as_number(score)
    return repr(score) if number is None else number

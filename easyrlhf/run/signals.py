"""Stop requests: SIGTERM, SIGINT and SIGHUP become a clean end."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from easyrlhf.errors import RunStopped
from easyrlhf.stopping import HANG_UP, stop_signals

AGAIN = "The same command starts or continues the run"


class StopRequest:
    """Catches SIGTERM, Ctrl-C and a closed terminal (SIGHUP) while a stage works.

    While `holding` is False (nothing is trained yet) a signal ends the run at once. While it is True the
    signal is noted in `requested`, for the loop to finish its step and save, and answered on standard error; a second
    one ends the run at once, but for SIGHUP, of which one closed terminal sends several.

    at_stake   → what an end at once loses, for the answers
    finishing  whether the last step is done, so that the run is about to end by itself
    """

    def __init__(self):
        self.holding = False
        self.requested = False
        self.finishing = False
        self.at_stake: Callable[[], str] = lambda: "the steps since the last checkpoint"

    def __enter__(self) -> "StopRequest":
        self.previous = {}
        if threading.current_thread() is threading.main_thread():  # the only thread that may set handlers
            for number in stop_signals():
                self.previous[number] = signal.signal(number, self.handle)
        return self

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def handle(self, number, _frame):
        """Note the first signal of a training run; end the run at any other."""
        name = signal.Signals(number).name
        if self.requested and number == HANG_UP:
            return
        if not self.holding:
            raise RunStopped(f"{name} received before training began; nothing was lost. {AGAIN}")
        if self.requested:
            raise RunStopped(f"{name} received a second time; stopped at once, which lost {self.at_stake()}. {AGAIN}")
        self.requested = True
        doing = "finishing the run, whose last step is done" if self.finishing else "stopping after this step"
        say_to_terminal(f"{name} received: {doing}; again stops now and loses {self.at_stake()}")


def say_to_terminal(text: str) -> None:
    """Write a line to standard error, from the main process, in the middle of whatever else is being written there."""
    if os.environ.get("RANK", "0") == "0":
        with suppress(OSError, ValueError, AttributeError):  # nobody reads it; there is no standard error
            os.write(sys.stderr.fileno(), f"\n{text}\n".encode(sys.stderr.encoding or "utf-8", "replace"))

"""Replies on their way to the store, several in one transaction where they come faster than a disk writes."""

import time
from collections.abc import Callable
from typing import Any

Reply = tuple[int, str, Any]  # item, request, reply, as Store.add_replies takes them
HOLD = 0.1  # seconds of a judge's work that may be lost in a kill
MOST = 500  # replies that may be


class ReplyBox:
    """Where a judge's replies go; only one thread may use it.

    A transaction waits for the disk some milliseconds, a python function answers in microseconds. So replies stay here
    until the work of `hold` seconds or `MOST` of them have come together; one that took longer is stored at once.
    """

    def __init__(self, store: Callable[[list[Reply]], Any], hold: float, clock: Callable[[], float] = time.monotonic):
        self.store, self.hold, self.clock = store, hold, clock
        self.held: list[Reply] = []
        self.since = clock()

    def add(self, *reply: Any) -> None:
        """Take a reply: (item, request, reply)."""
        self.held.append(reply)
        if len(self.held) >= MOST or self.clock() - self.since >= self.hold:
            self.empty()

    def empty(self) -> None:
        """Store what is held, on disk when this returns."""
        if self.held:
            self.store(self.held)
        self.held, self.since = [], self.clock()

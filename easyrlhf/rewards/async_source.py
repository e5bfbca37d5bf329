"""Sources that work outside of the main thread, which waits for them no longer than their limit."""

import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from easyrlhf.rewards.asides import Logged, asides_of
from easyrlhf.rewards.batch import ENVIRONMENTS, RewardBatch, RewardError, score_list
from easyrlhf.rewards.functions import (
    asked_asides,
    call,
    columns_taken,
    fault,
    in_event_loop,
    is_async,
    names_environments,
    required_columns,
)
from easyrlhf.userfile import Function

LIMIT = 600.0  # seconds
BRIEFLY = 1.0  # seconds until a waiting main thread looks whether it was signalled


@dataclass(frozen=True)
class Pending:
    """Scores on their way.

    who      what messages call the source
    limit    seconds; None for a source that keeps its limit itself
    explain  an exception → the words for what went wrong
    logged   what the source logs while it works
    """

    who: str
    batch: RewardBatch
    limit: float | None
    future: Future
    explain: Callable[[BaseException], str]
    logged: Logged = field(default_factory=Logged)
    began: float = field(default_factory=time.monotonic)

    def seconds_left(self) -> float:
        """Until the limit."""
        return math.inf if self.limit is None else self.began + self.limit - time.monotonic()

    def scores(self) -> list:
        """Wait for them. Raises RewardError when there are none within the limit, or not one per completion."""
        while not self.future.done() and (left := self.seconds_left()) > 0:
            wait([self.future], min(BRIEFLY, left))  # in turns: a signal that another thread is given ends no wait
        if not self.future.done():
            self.future.cancel()
            raise too_slow(self.who, self.limit, self.batch)
        error = CancelledError("cancelled") if self.future.cancelled() else self.future.exception()
        if isinstance(error, RewardError):
            raise error
        if error is not None:
            raise RewardError(f"{self.who} raised {self.explain(error)}\n{self.batch.sample()}") from error
        scores = score_list(self.future.result(), self.who, self.batch)
        self.logged.check(self.who, self.batch)
        return scores


def too_slow(who: str, limit: float, batch: RewardBatch) -> RewardError:
    """The error of a source that did not answer in time."""
    return RewardError(
        f"{who} gave no scores for {len(batch)} completions within {limit:g} s (--reward_timeout). "
        f"The first of them:\n{batch.sample()}"
    )


def in_thread(work: Callable[[], Any]) -> Future:
    """Begin a call in a daemon thread, which does not keep the process from ending; gradients are off in it."""
    future: Future = Future()
    future.set_running_or_notify_cancel()  # from here on nobody can cancel it, and its thread may always end it

    def run() -> None:
        try:
            with torch.no_grad():
                future.set_result(work())
        except BaseException as error:  # SystemExit too: a function must not end the run without a word
            future.set_exception(error)

    threading.Thread(target=run, name="reward", daemon=True).start()
    return future


class AsyncSource(ABC):
    """A source that is begun and waited for apart.

    name      for metrics
    overlaps  whether it may work while other sources do; the rest take turns
    remote    whether it is somebody else, who may be asked too much at a time
    """

    name: str
    overlaps: bool
    remote: ClassVar[bool] = False

    @abstractmethod
    def start(self, batch: RewardBatch) -> Pending:
        """Begin to score a batch."""


@dataclass(frozen=True)
class RewardFunction(AsyncSource):
    """Calls a python function with the signature of TRL's reward functions.

    function(prompts, completions, completion_ids, **columns) -> list of numbers or None, sync or async. Prompts and
    completions are strings, or message lists where the prompt is one; every column of the prompt rows is a keyword, and
    so are the asides (rewards/asides.py) that it takes.
    """

    function: Function
    name: str
    timeout: float = LIMIT

    @property
    def overlaps(self) -> bool:
        """Async functions wait side by side, as in TRL."""
        return is_async(self.function)

    def start(self, batch: RewardBatch) -> Pending:
        """Call it: an async function in the event loop, another in a thread of its own."""
        logged = Logged(len(batch))
        keywords = keywords_for(self.function, batch) | asides_for(self.function, batch, logged)
        if self.overlaps:
            future = in_event_loop(lambda: self.function(**keywords))
        else:
            future = in_thread(lambda: call(self.function, keywords))
        who = f"reward function {self.name}"
        return Pending(who, batch, self.timeout, future, lambda error: fault(error, self.function), logged)


def keywords_for(function: Function, batch: RewardBatch) -> dict[str, list]:
    """The batch as keywords that it takes; a column that it needs and no row of the batch has is None in each.

    Environments are themselves, no copies: they may hold what cannot be copied.
    """
    found = batch.keywords()
    if batch.environments is not None and ENVIRONMENTS not in found and names_environments(function):
        found[ENVIRONMENTS] = batch.environments
    found = {name: found[name] for name in columns_taken(function, found)}
    return {name: [None] * len(batch) for name in required_columns(function)} | found


def asides_for(function: Function, batch: RewardBatch, logged: Logged) -> dict[str, Any]:
    """The asides that it takes, which no column of the batch has the name of."""
    found = asides_of(batch.state, logged)
    return {name: found[name] for name in asked_asides(function, batch.columns)}

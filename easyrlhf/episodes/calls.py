"""Calls of an environment's code: in threads or awaited, within a time limit, and what becomes of those that fail."""

import asyncio
import copy
import inspect
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from easyrlhf.episodes.chat import EpisodeChat
from easyrlhf.errors import RunStopped, ServiceError
from easyrlhf.rewards.async_source import in_thread
from easyrlhf.rewards.functions import parameters, takes_any_column
from easyrlhf.userfile import raised

LOOKS = 1.0  # seconds after which an episode function that says nothing is looked at


class EnvironmentFailed(ServiceError):
    """An environment raised, took too long or gave what it may not; the message shows the episode."""


Outcome = tuple[Any, BaseException | None]  # what a call returned, or what it raised


class Calls:
    """What an episode asks of its environment.

    tool_calls, tool_errors  so far
    seconds                  that the environment has taken
    """

    class ToolRaised(Exception):
        """A tool raised; the text is the answer that the model reads."""

    class TooSlow(Exception):
        """A call took longer than it may: other than a TimeoutError, which the called function may raise itself."""

    def __init__(self, name: str, chat: EpisodeChat, workers: asyncio.Semaphore, timeout: float):
        self.name, self.chat, self.workers, self.timeout = name, chat, workers, timeout
        self.tool_calls = self.tool_errors = 0
        self.seconds = 0.0

    async def call(self, part: str, function: Callable[..., Any], /, *args: Any, **more: Any) -> Any:
        """What a part of the environment returns. Raises EnvironmentFailed."""
        try:
            result, error = await self._limited(function, *args, **more)
        except self.TooSlow:
            raise self.too_slow(part) from None
        if error is not None:
            raise self.failed(f"{part} raised {raised(error, function)}{hint_of(error)}") from error
        return result

    async def tool(self, name: str, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """What a tool returns. Raises ToolRaised for its exceptions, EnvironmentFailed when it takes too long."""
        try:
            result, error = await self._limited(function, **arguments)
        except self.TooSlow:
            raise self.too_slow(f"its tool {name}") from None
        if error is not None:
            raise self.ToolRaised(f"{type(error).__name__}: {error}") from error
        return result

    async def awaited(self, function: Callable[..., Any], chat: EpisodeChat, /, **more: Any) -> Any:
        """What an episode function returns. Raises EnvironmentFailed; EpisodeOver goes through.

        Its limit is the time that passes between two turns of the policy.
        """
        playing = asyncio.ensure_future(outcome(lambda: function(chat, **more)))
        try:
            while not (await asyncio.wait({playing}, timeout=min(LOOKS, self.timeout)))[0]:
                if not chat.asking and time.monotonic() - chat.since > self.timeout:
                    raise self.too_slow("the function")
            result, error = playing.result()
        finally:
            playing.cancel()
        if isinstance(error, ServiceError):
            raise error
        if error is not None:
            raise self.failed(f"raised {raised(error, function)}{hint_of(error)}") from error
        return result

    async def _limited(self, function: Callable[..., Any], /, *args: Any, **more: Any) -> Outcome:
        """What comes of a call within the limit; functions that are not async have a thread each. Raises TooSlow."""
        async with self.workers:
            began = time.perf_counter()
            if inspect.iscoroutinefunction(function):
                waiting = asyncio.ensure_future(outcome(lambda: function(*args, **more)))
            else:
                waiting = asyncio.wrap_future(in_thread(lambda: outcome_in_thread(lambda: function(*args, **more))))
            try:
                if not (await asyncio.wait({waiting}, timeout=self.timeout))[0]:
                    raise self.TooSlow
                return waiting.result()
            finally:
                waiting.cancel()
                self.seconds += time.perf_counter() - began

    def taken(self, function: Callable[..., Any], columns: dict[str, Any], chat: EpisodeChat) -> dict[str, Any]:
        """The columns of a row that a function takes, and the task's seed and prompt where it takes those."""
        given = {"seed": chat.seed, "prompt": copy.deepcopy(chat.prompt)} | columns
        if takes_any_column(function):
            return given
        known = parameters(function)
        return {name: value for name, value in given.items() if name in known}

    def text(self, part: str, said: Any) -> str:
        """What a part of the environment says. Raises EnvironmentFailed for what is no text."""
        if not isinstance(said, str):
            raise self.failed(f"{part} returned {type(said).__name__}, and must return a text or None")
        return said

    def too_slow(self, part: str) -> EnvironmentFailed:
        """The error of a call that took longer than it may."""
        return self.failed(f"{part} gave no answer within {self.timeout:g} s (--environment_timeout)")

    def failed(self, what: str) -> EnvironmentFailed:
        """The error of this episode, with its row and all that was said in it."""
        row = f" ({self.chat.place})" if self.chat.place else ""
        return EnvironmentFailed(f"the environment {self.name}{row}: {what}\n{transcript(self.chat)}")


async def outcome(start: Callable[[], Awaitable[Any]]) -> Outcome:
    """What comes of an async call. Its exceptions are values: some, as SystemExit, would end the event loop.

    One that ends the run, from a signal that came while it was at work, is not its own.
    """
    try:
        return await start(), None
    except RunStopped:
        raise
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        return None, error


def outcome_in_thread(work: Callable[[], Any]) -> Outcome:
    """What comes of a call. Its exceptions are values: some, as StopIteration, cannot be handed to who awaits it."""
    try:
        return work(), None
    except BaseException as error:
        return None, error


def hint_of(error: BaseException | None) -> str:
    """What an error may mean that does not say so itself; "" for others."""
    while error is not None:
        if type(error).__name__ == "ConnectionClosedOK":  # of websockets: closed with code 1000 and no reason
            return (
                "; so does a server close a session that it has no room for (OpenEnv's has room for one unless its "
                "max_concurrent_envs says otherwise): raise that, or set --environment_concurrency to it"
            )
        error = error.__cause__ or error.__context__
    return ""


def transcript(chat: EpisodeChat) -> str:
    """An episode so far, a turn a line, for a message."""
    shown = [*chat.prompt, *chat.messages]
    return "\n".join(
        f"  {turn['role']}: {turn['content']!r}"
        + (f" {json.dumps(turn['tool_calls'], default=str)}" if turn.get("tool_calls") else "")
        for turn in shown
    )

"""Calls of an environment's code: in threads or awaited, within a time limit, and what becomes of those that fail."""

import asyncio
import inspect
import json
import time
from collections.abc import Callable
from typing import Any

from easyrlhf.episodes.chat import Chat
from easyrlhf.errors import ServiceError
from easyrlhf.rewards.async_source import in_thread
from easyrlhf.userfile import raised

LOOKS = 1.0  # seconds after which an episode function that says nothing is looked at


class EnvironmentFailed(ServiceError):
    """An environment raised, took too long or gave what it may not; the message shows the episode."""


class Calls:
    """What an episode asks of its environment.

    tool_calls, tool_errors  so far
    seconds                  that the environment has taken
    """

    class ToolRaised(Exception):
        """A tool raised; the text is the answer that the model reads."""

    def __init__(self, name: str, chat: Chat, workers: asyncio.Semaphore, timeout: float):
        self.name, self.chat, self.workers, self.timeout = name, chat, workers, timeout
        self.tool_calls = self.tool_errors = 0
        self.seconds = 0.0

    async def call(self, part: str, function: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """What a part of the environment returns. Raises EnvironmentFailed."""
        try:
            return await self._limited(function, *args, **more)
        except TimeoutError as error:
            raise self.too_slow(part) from error
        except (Exception, SystemExit) as error:
            raise self.failed(f"{part} raised {raised(error, function)}") from error

    async def tool(self, name: str, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """What a tool returns. Raises ToolRaised for its exceptions, EnvironmentFailed when it takes too long."""
        try:
            return await self._limited(function, **arguments)
        except TimeoutError as error:
            raise self.too_slow(f"its tool {name}") from error
        except (Exception, SystemExit) as error:
            raise self.ToolRaised(f"{type(error).__name__}: {error}") from error

    async def awaited(self, function: Callable[..., Any], chat: Chat, **more: Any) -> Any:
        """What an episode function returns. Raises EnvironmentFailed; EpisodeOver goes through.

        Its limit is the time that passes between two turns of the policy.
        """
        playing = asyncio.ensure_future(function(chat, **more))
        try:
            while not (await asyncio.wait({playing}, timeout=min(LOOKS, self.timeout)))[0]:
                if not chat.asking and time.monotonic() - chat.since > self.timeout:
                    raise self.too_slow("the function")
            return playing.result()
        except ServiceError:
            raise
        except (Exception, SystemExit) as error:
            raise self.failed(f"raised {raised(error, function)}") from error
        finally:
            playing.cancel()

    async def _limited(self, function: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """What a function returns within the limit; those that are not async have a thread each."""
        async with self.workers:
            began = time.perf_counter()
            if inspect.iscoroutinefunction(function):
                waiting = function(*args, **more)
            else:
                waiting = asyncio.wrap_future(in_thread(lambda: function(*args, **more)))
            try:
                return await asyncio.wait_for(waiting, self.timeout)
            finally:
                self.seconds += time.perf_counter() - began

    def taken(self, function: Callable[..., Any], columns: dict[str, Any], chat: Chat) -> dict[str, Any]:
        """The columns of a row that a function takes, and the task's seed and prompt where it takes those."""
        given = {"seed": chat.seed, "prompt": chat.prompt} | columns
        known = inspect.signature(function).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known):
            return given
        names = {parameter.name for parameter in known}
        return {name: value for name, value in given.items() if name in names}

    def text(self, part: str, said: Any) -> str:
        """What a part of the environment says. Raises EnvironmentFailed for what is no text."""
        if not isinstance(said, str):
            raise self.failed(f"{part} returned {type(said).__name__}, and must return a text or None")
        return said

    def too_slow(self, part: str) -> EnvironmentFailed:
        """The error of a call that took longer than it may."""
        return self.failed(f"{part} gave no answer within {self.timeout:g} s (--environment_timeout)")

    def failed(self, what: str) -> EnvironmentFailed:
        """The error of this episode, with all that was said in it."""
        return EnvironmentFailed(f"the environment {self.name}: {what}\n{transcript(self.chat)}")


def transcript(chat: Chat) -> str:
    """An episode so far, a turn a line, for a message."""
    shown = [*chat.prompt, *chat.messages]
    return "\n".join(
        f"  {turn['role']}: {turn['content']!r}"
        + (f" {json.dumps(turn['tool_calls'], default=str)}" if turn.get("tool_calls") else "")
        for turn in shown
    )

"""What --environment names: a class of TRL's kind, one that answers, or an episode function."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from types import FunctionType
from typing import Any

from easyrlhf.episodes.calls import Calls, EnvironmentFailed
from easyrlhf.episodes.chat import EpisodeChat, EpisodeOver
from easyrlhf.episodes.tools import Tools, arguments_of, as_tool_text, check_arguments, described_tools
from easyrlhf.errors import InputError
from easyrlhf.rewards.async_source import in_thread
from easyrlhf.userfile import find_function

PARTS = ("reset", "respond", "get_reward", "close")  # methods of an environment that are no tools
CLOSING = 10.0  # seconds that closing an instance may take which nobody has played with
METHODS = (FunctionType, classmethod, staticmethod)


@dataclass(frozen=True)
class Environment:
    """An environment as the settings name it.

    name       of its class or function, for metrics and messages
    make       gives an instance for an episode; None for an episode function
    function   async function(chat, **columns) → reward or None, where there is no class
    functions  stateless tools of --tools by name
    rewards    whether it scores episodes
    play       async function(chat, columns, calls) → reward, for one that is no code of the user's
    around     what has to be there while episodes are played
    looked_at  an instance that nobody plays with, closed: what it has is known from it; None where there is no class
    """

    name: str
    make: Callable[[], Any] | None
    function: Callable[..., Awaitable[float | None]] | None
    functions: dict[str, Callable[..., Any]]
    rewards: bool
    play: Callable[..., Awaitable[float]] | None = None
    around: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
    looked_at: Any = None

    def tools_of(self, instance: Any) -> dict[str, Callable[..., Any]]:
        """The tools of an episode: those of --tools, and every other public method of the instance."""
        return self.functions | ({} if instance is None else methods_of(instance))


def load_environment(spec: str | None, tools: list[str]) -> Environment:
    """What --environment and --tools name. Raises InputError for what is neither of the forms."""
    modules: dict = {}
    functions = {}
    for name in tools:
        function = find_function("--tools", name, modules)
        called = getattr(function, "__name__", type(function).__name__)
        if called in functions:
            raise InputError(
                f"--tools {name}: there are two tools {called}, and the policy calls them by name; rename one"
            )
        functions[called] = function
    if spec is None:
        return Environment("tools", ToolsAlone, None, functions, rewards=False, looked_at=ToolsAlone())
    found = find_function("--environment", spec, modules)
    name = getattr(found, "__name__", type(found).__name__)
    if inspect.iscoroutinefunction(found):
        check_episode_function(spec, found)
        return Environment(name, None, found, functions, rewards=True)
    try:
        if not inspect.isclass(found):
            inspect.signature(found).bind()
    except TypeError as error:
        raise InputError(f"--environment {spec}: {error}; {FORMS}") from error
    instance = made(spec, found)  # once: it may hold the only session of a server
    put_away(instance)
    return Environment(name, found, None, functions, hasattr(instance, "get_reward"), looked_at=instance)


FORMS = (
    "it must be a class with reset, respond(text) and get_reward (other public methods are tools), a function of no "
    "arguments that returns such an object, or async def episode(chat, **columns). A rollout_func of other systems is "
    "written as such a class (easyrlhf docs environments)"
)


class ToolsAlone:
    """The environment of --tools by itself: it says nothing, and the first answer without a call is the last."""

    def reset(self, **columns: Any) -> None:
        """Nothing to begin with."""


def check_episode_function(spec: str, function: Callable[..., Any]) -> None:
    """Raise InputError unless an episode function takes the chat first."""
    names = list(inspect.signature(function).parameters)
    if not names or names[0] != "chat":
        raise InputError(f"--environment {spec}: its first parameter is {names[0] if names else 'missing'}; {FORMS}")


def made(spec: str, make: Callable[[], Any]) -> Any:
    """An instance. Raises InputError when it cannot be made, or is no environment."""
    try:
        instance = make()
    except (Exception, SystemExit) as error:
        raise InputError(f"--environment {spec}: making one raised {type(error).__name__}: {error}") from error
    if not (hasattr(instance, "reset") or hasattr(instance, "respond") or methods_of(instance)):
        raise InputError(f"--environment {spec}: has no method reset, respond, or any other; {FORMS}")
    return instance


def put_away(instance: Any) -> None:
    """Close an instance that was made to be looked at."""
    if not hasattr(instance, "close"):
        return

    def close() -> None:
        closing = instance.close()
        if inspect.isawaitable(closing):
            asyncio.run(awaiting(closing))

    with suppress(Exception, SystemExit):  # before reset there may be nothing to close
        in_thread(close).result(CLOSING)  # a notebook has an event loop in this thread


async def awaiting(closing: Awaitable[Any]) -> None:
    """Wait for it."""
    await closing


def methods_of(instance: Any) -> dict[str, Callable[..., Any]]:
    """The tools of an environment: its public methods but for those of PARTS, in the order they are written."""
    names = [name for cls in reversed(type(instance).__mro__[:-1]) for name in vars(cls)]
    cls, public = type(instance), [name for name in names if not name.startswith("_") and name not in PARTS]
    routines = [name for name in public if isinstance(inspect.getattr_static(cls, name), METHODS)]  # runs no property
    found = {name: getattr(instance, name) for name in routines}
    return {name: method for name, method in found.items() if inspect.ismethod(method) or inspect.isfunction(method)}


async def played(environment: Environment, chat: EpisodeChat, columns: dict[str, Any], calls: Calls) -> float | None:
    """Play one episode; returns what it is worth beside the rewards of its turns, None where it does not say."""
    if environment.play is not None:
        return await environment.play(chat, columns, calls)
    if environment.function is not None:
        taken = calls.taken(environment.function, columns, chat)
        taken.pop("chat", None)  # a column of this name: the function has its conversation there
        try:
            return await calls.awaited(environment.function, chat, **taken)
        except EpisodeOver:  # it was not done: what it has rewarded so far stands
            return None
    instance = chat.environment = await calls.call("making one", environment.make)
    chat.tools = replace(chat.tools, functions=environment.tools_of(instance))
    try:
        with suppress(EpisodeOver):  # what it has come to is scored
            await converse(instance, chat, columns, calls)
        given = await calls.call("get_reward", instance.get_reward) if environment.rewards else None
    except BaseException:
        with suppress(EnvironmentFailed):  # what came first is the cause
            await closed(instance, calls)
        raise
    await closed(instance, calls)
    return given


async def closed(instance: Any, calls: Calls) -> None:
    """Let an environment put away what it has open."""
    if hasattr(instance, "close"):
        await calls.call("close", instance.close)


async def converse(instance: Any, chat: EpisodeChat, columns: dict[str, Any], calls: Calls) -> None:
    """Let policy and environment speak in turns, until the environment has nothing more to say."""
    if hasattr(instance, "reset"):
        text = await calls.call("reset", instance.reset, **calls.taken(instance.reset, columns, chat))
        if text is not None:
            chat.add_to_prompt(calls.text("reset", text))
    while True:
        answer = await chat.reply()
        if asked := chat.messages[-1].get("tool_calls"):
            for call in asked:
                name, text = await answer_call(chat.tools, call, calls)
                chat.say(text, role="tool", name=name)
            continue
        if not hasattr(instance, "respond"):
            return
        said = await calls.call("respond", instance.respond, answer)
        if said is None:
            return
        chat.say(calls.text("respond", said))


async def answer_call(tools: Tools, call: dict[str, Any], calls: Calls) -> tuple[str, str]:
    """The name of a called tool and what the model reads of it: an error is an answer too, and the episode goes on."""
    calls.tool_calls += 1
    name = str(call.get("function", call).get("name"))
    try:
        name, arguments = arguments_of(call)
        if name not in tools.functions:
            raise KeyError(f"there is no tool {name}; there are {', '.join(tools.functions)}")
        check_arguments(tools.functions[name], arguments)
        return name, as_tool_text(await calls.tool(name, tools.functions[name], arguments))
    except (ValueError, TypeError, KeyError, calls.ToolRaised) as error:
        calls.tool_errors += 1
        said = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
        return name, as_tool_text({"error": said})


def environment_tools(environment: Environment, instance: Any, flag: str) -> Tools:
    """The tools of an episode, described."""
    functions = environment.tools_of(instance)
    return Tools(functions, described_tools(functions, flag))

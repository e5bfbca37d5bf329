"""Python reward functions: found in their files, checked, called. Loads no torch: worker processes start with this."""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from functools import cache
from types import ModuleType
from typing import Any

from easyrlhf.config.common_fields import BROUGHT, REASONING_GYM, TRL
from easyrlhf.data.keys import ANSWERS
from easyrlhf.errors import InputError
from easyrlhf.rewards.asides import ASIDES
from easyrlhf.rewards.batch import ENVIRONMENTS, OURS, as_list
from easyrlhf.rewards.puzzles import puzzle_reward
from easyrlhf.rewards.ready_made import ready_made
from easyrlhf.userfile import Function, find_function, raised


def load_functions(specs: Iterable[str]) -> list[Function]:
    """The functions named by `file.py:fn`, where a file named twice is run once, `trl:NAME` or `reasoning_gym:NAME`.

    Raises InputError when a file or a function is not there, or when a file raises.
    """
    modules: dict[str, ModuleType] = {}

    def named(spec: str) -> Function:
        if spec.startswith(TRL):
            return ready_made(spec)
        if spec.startswith(REASONING_GYM):
            return puzzle_reward(spec)
        return find_function("--reward_funcs", spec, modules)

    return list(map(named, specs))


# --- what a function takes


def parameters(function: Function) -> dict[str, inspect.Parameter]:
    """Its parameters by name; any keyword for one that does not say (a builtin)."""
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}


def required_columns(function: Function) -> list[str]:
    """The data's columns that it cannot do without: parameters with no default that are neither ours nor asides."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    found = parameters(function).values()
    return [p.name for p in found if p.kind in named and p.default is p.empty and p.name not in (*OURS, *ASIDES)]


def takes_any_column(function: Function) -> bool:
    """Whether it has **kwargs, or does not say."""
    return any(p.kind is p.VAR_KEYWORD for p in parameters(function).values())


def names_environments(function: Function) -> bool:
    """Whether it asks for the objects that episodes were played with; `**kwargs` do not."""
    return ENVIRONMENTS in parameters(function)


def refused_keywords(function: Function, names: Iterable[str]) -> list[str]:
    """Those of the names that it does not take as keywords: it lacks **kwargs, or needs one by position alone."""
    known, any_column = parameters(function), takes_any_column(function)
    by_keyword = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY

    def takes(name: str) -> bool:
        if name in known and known[name].kind in by_keyword:
            return True
        return any_column and (name not in known or known[name].default is not inspect.Parameter.empty)

    return [name for name in names if not takes(name)]


def columns_taken(function: Function, columns: Iterable[str]) -> list[str]:
    """The columns that it is called with: all, but of the answers that rows hold only those that it takes."""
    return [name for name in columns if name not in ANSWERS or not refused_keywords(function, [name])]


def asked_asides(function: Function, columns: Iterable[str]) -> list[str]:
    """The asides that it takes and no column has the name of."""
    return [name for name in ASIDES if name not in columns and not refused_keywords(function, [name])]


def check_parameters(
    spec: str,
    function: Function,
    columns: Iterable[str] | None = None,
    asked: Iterable[str] = (),
    environments: bool = False,
) -> None:
    """Raise InputError when a function cannot be called with what it will be given.

    columns  names of the data's columns; None while they are not known
    asked    keys of the data's rows that are in their prompts
    environments  whether completions are played with objects that it may ask for
    """
    given = [*OURS, *sorted(set(columns_taken(function, columns or ())) - set(OURS))]
    if unknown := refused_keywords(function, given):
        by_position = any(p.kind is p.POSITIONAL_ONLY and p.name in unknown for p in parameters(function).values())
        way = "leave out the / in its parameters" if by_position else "end its parameters with **kwargs"
        raise InputError(
            f"--reward_funcs {spec}: takes no parameter {', '.join(unknown)}, but is called with the keywords "
            f"{', '.join(given)}{' and every column of the data' * (columns is None)}; {way}"
        )
    missing = [name for name in required_columns(function) if name not in given]
    if columns is not None and missing:
        check_missing(spec, missing, given[len(OURS) :], asked, environments)


def check_missing(spec: str, missing: list[str], known: list[str], asked: Iterable[str], environments: bool) -> None:
    """Raise InputError where what a function needs is neither in the data nor of an environment.

    missing  what it needs and no column of the data is
    known    the columns
    asked, environments  as in check_parameters
    """
    if ENVIRONMENTS in missing and not environments:
        raise InputError(
            f"--reward_funcs {spec}: needs environments, the objects that episodes are played with; give "
            "--environment a class, or the parameter a default"
        )
    if not (lacking := [name for name in missing if name != ENVIRONMENTS]):
        return
    inside = [name for name in lacking if name in asked]
    way = f"{', '.join(inside)} is in the prompts: read it there" if inside else "Add the column"
    brought = spec.startswith(BROUGHT)
    other = f"name another: --field {lacking[0]}=KEY" if brought else "give the parameter a default"
    raise InputError(
        f"--reward_funcs {spec}: needs {', '.join(lacking)}, which is no column of --train_data; it has "
        f"{', '.join(known) or 'none beside the prompt'}. {way}, or {other}"
    )


def is_async(function: Function) -> bool:
    """Whether calling it gives something to await."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


# --- calling it


def call(function: Function, keywords: dict[str, list]) -> Any:
    """What it returns, awaited where that is needed; a list where it can be one."""
    scores = function(**keywords)
    return in_event_loop(lambda: scores).result() if inspect.isawaitable(scores) else as_list(scores)


def in_event_loop(start: Callable[[], Awaitable]) -> Future:
    """Begin to await what `start` returns, as call does, in this process's event loop for reward functions."""

    async def wait() -> Any:
        return as_list(await start())

    return asyncio.run_coroutine_threadsafe(wait(), event_loop())


@cache
def event_loop() -> asyncio.AbstractEventLoop:
    """A loop that runs in a daemon thread for as long as the process: what a function keeps open stays usable."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="reward functions", daemon=True).start()
    return loop


def fault(error: BaseException, function: Function) -> str:
    """`ZeroDivisionError: division by zero (rewards.py:12)`: what was raised, and where in the function's own file."""
    hint = ""
    if isinstance(error, ValueError) and "main thread" in str(error):  # signal.alarm, as math_verify has it
        hint = "; with --reward_workers 1 it is called in the main thread of a process of its own"
    return f"{raised(error, function)}{hint}"

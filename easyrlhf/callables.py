"""Functions that Python code hands to a setting: each gets a name as the command line has them, `file.py:fn`."""

import sys
from collections.abc import Callable
from itertools import chain, count
from pathlib import Path
from typing import Any

# Name → function, of every function that this process was handed.
HANDED: dict[str, Callable[..., Any]] = {}


def name_of(function: Callable[..., Any]) -> str:
    """The name of a function, under which find_function (userfile.py) finds it in this process.

    Other processes find it by that name where it stands in its file under its own name (in_file).
    """
    code = getattr(function, "__code__", None)
    if code and function.__module__.startswith("trl.rewards."):
        return f"trl:{function.__name__}"  # where trl is installed is no part of a run's settings
    file = str(Path(code.co_filename).absolute()) if code and code.co_filename.endswith(".py") else "python.py"
    plain = getattr(function, "__name__", type(function).__name__)
    plain = plain if plain.isidentifier() else f"lambda_at_{code.co_firstlineno}"
    names = (f"{file}:{plain}{ending}" for ending in chain([""], map("_{}".format, count(1))))
    name = next(name for name in names if HANDED.get(name, function) is function)
    HANDED[name] = function
    return name


def in_file(name: str) -> bool:
    """Whether a process that was not handed this function finds it: it stands in a file, under its own name."""
    function, (file, _, plain) = HANDED[name], name.rpartition(":")
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    return Path(file).is_file() and getattr(module, plain, None) is function

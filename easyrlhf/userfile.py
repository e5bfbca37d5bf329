"""Python files of the user: loaded as modules, and the functions that are named in them. Loads no torch."""

import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from easyrlhf.callables import HANDED
from easyrlhf.config.common_fields import wrong_function
from easyrlhf.errors import InputError
from easyrlhf.paths import broken_link

Function = Callable[..., Any]


def find_function(flag: str, spec: str, modules: dict[str, ModuleType]) -> Function:
    """The function that a setting names as `file.py:fn`: one that Python code handed to it, or one in a file.

    A file's module is looked up in `modules`, and left there.

    flag  the setting, for messages
    Raises InputError when the file or the function is not there, or when the file raises.
    """
    if spec in HANDED:
        return HANDED[spec]
    if wrong := wrong_function(spec):
        raise InputError(f"{flag} {spec}: {wrong}")
    path, _, name = spec.rpartition(":")
    if not Path(path).is_file():
        raise InputError(f"{flag} {spec}: {broken_link(path) or f'there is no file {path}'}")
    if path not in modules:
        try:
            modules[path] = load_module(path)
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{flag} {spec}: importing {path} raised {reason}") from error
    function = getattr(modules[path], name, None)
    if not callable(function):
        known = [key for key, value in vars(modules[path]).items() if inspect.isfunction(value)]
        raise InputError(f"{flag} {spec}: {path} has no function {name}; it has {', '.join(known) or 'none'}")
    return function


def load_module(path: str | Path) -> ModuleType:
    """A python file as a module, which may import the files beside it; whatever it raises goes through."""
    names = (f"easyrlhf_file_{Path(path).stem}{'_' * number}" for number in count())  # hide no module of another file
    name = next(one for one in names if getattr(sys.modules.get(one), "__file__", str(path)) == str(path))
    folder = str(Path(path).absolute().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by its name
    spec.loader.exec_module(module)
    return module


def raised(error: BaseException, function: Function) -> str:
    """`ZeroDivisionError: division by zero (rewards.py:12)`: what was raised, and where in the function's own file."""
    file = getattr(code_of(function), "co_filename", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    place = f" ({os.path.basename(file)}:{lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{place}"


def code_of(function: Function) -> CodeType | None:
    """The code that calling it runs: of a function, a method, a partial, an object; None where python has none."""
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function)
    called = function if inspect.isroutine(function) else type(function).__call__
    return getattr(getattr(called, "__func__", called), "__code__", None)

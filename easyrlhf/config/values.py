"""The values of a setting: read in its own type, from whatever they come, and held against its limits."""

import difflib
import json
import math
import os
import re
import types
from collections.abc import Callable
from contextlib import suppress
from dataclasses import Field
from typing import Any, get_args

from easyrlhf.callables import name_of
from easyrlhf.config.lists import APART, escape_text, split_list
from easyrlhf.errors import SettingError
from easyrlhf.paths import split_paths

TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
NONE = ("none", "null")


def setting_kind(setting: Field) -> tuple[type, bool]:
    """(bool, int, float or str; whether None is allowed too) of a setting."""
    if isinstance(setting.type, types.UnionType):
        return next(t for t in get_args(setting.type) if t is not types.NoneType), True
    return setting.type, False


def convert(setting: Field, value: Any) -> Any:
    """The value in the setting's own type, from a flag's text, a YAML value or Python.

    SettingError when it cannot be read as that type. "none" stands for None where None is allowed.
    """
    kind, optional = setting_kind(setting)
    if optional and _is_none(setting, value):
        return None
    value = _as_one(setting, value)
    if not isinstance(value, str | bool | int | float | os.PathLike):
        raise _not_taken(setting, repr(value))
    counts = setting.metadata.get("exact") or setting.metadata.get("apart")  # white space does
    text = str(value) if counts else str(value).strip()
    read = READERS[kind](setting, text, isinstance(value, bool))
    if read is None:
        raise _not_taken(setting, text or repr(value))
    return read


def _is_none(setting: Field, value: Any) -> bool:
    return value is None or (isinstance(value, str) and not setting.metadata.get("apart") and value.lower() in NONE)


def _as_one(setting: Field, value: Any) -> Any:
    """Several values in the one text that a flag has for them; functions by their names; any other value as it is."""
    more, several = setting.metadata, isinstance(value, list | tuple)
    if more.get("apart") and several:
        return APART.join(map(str, value))
    if more.get("functions"):
        named = [name_of(one) if callable(one) else one for one in (value if several else [value])]
        value = named if several else named[0]
    if more.get("many") and several:
        return ",".join(escape_text(str(item)) if more.get("exact") else str(item) for item in value)
    return json.dumps(value) if more.get("mapping") and isinstance(value, dict) else value


def _read_truth(_: Field, text: str, __: bool) -> bool | None:
    return TRUTH.get(text.lower())


def _read_text(setting: Field, text: str, truth: bool) -> str | None:
    """A text; of YAML's and Python's true and false, the choice of that name. None for an empty one."""
    if truth:
        return text.lower() if text.lower() in setting.metadata.get("choices", ()) else None
    if text and is_path(setting):
        return expanded(setting.name, text, setting.metadata.get("many", False))
    return text or None


def _read_whole(_: Field, text: str, truth: bool) -> int | None:
    with suppress(ValueError):
        return None if truth else int(text)
    with suppress(ValueError):  # 3.0 and 1e3 are whole numbers
        if float(text).is_integer():
            return int(float(text))
    return None


def _read_number(_: Field, text: str, truth: bool) -> float | None:
    with suppress(ValueError):
        return None if truth else float(text)
    return None


# type of a setting -> reader(setting, text, whether the text is that of true or false); None: it is none of these
READERS: dict[type, Callable[[Field, str, bool], Any]] = {
    bool: _read_truth,
    str: _read_text,
    int: _read_whole,
    float: _read_number,
}


def is_path(setting: Field) -> bool:
    """Whether a setting names files or folders, as its metavar says."""
    return any(word in setting.metadata.get("metavar", "") for word in ("DIR", "FILE"))


def expanded(name: str, value: str, many: bool = False) -> str:
    """A path with ~ and $VARIABLES filled in, or many of them in a comma list; what exists as it is written stays.

    Raises SettingError for a variable that is not set.
    """
    if many:
        return ",".join(expanded(name, item) for item in split_paths(value))
    path = value.strip()
    if not re.search(r"^~|\$", path) or os.path.lexists(path):
        return value
    found = os.path.expanduser(os.path.expandvars(path))
    if missing := re.search(r"\$(\{[A-Za-z_]\w*\}|[A-Za-z_]\w*)", found):
        raise SettingError(name, f"{name} {path}: the variable {missing[0]} is not set; set it, or write the path out")
    return found


def _not_taken(setting: Field, value: str) -> SettingError:
    """The error of a value of another type than the setting's."""
    kind, optional = setting_kind(setting)
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]
    if "choices" in setting.metadata:
        words = "one of " + ", ".join(setting.metadata["choices"])
    words += " or none" if optional else ""
    words += f"; {setting.metadata['otherwise']}" if "otherwise" in setting.metadata else ""
    return SettingError(setting.name, f"{setting.name} {value}: takes {words}")


def check_limits(setting: Field, value: Any) -> None:
    """Raise SettingError when the value is outside the setting's limits or choices."""
    name, limits = setting.name, setting.metadata
    if "choices" in limits and value not in limits["choices"]:
        near = difflib.get_close_matches(str(value), limits["choices"], 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise SettingError(name, f"{name} {value}: must be one of {', '.join(limits['choices'])}{hint}")
    split = split_paths if is_path(setting) else split_list
    for item in split(value) if limits.get("many") and "wrong" in limits else [value]:
        if "wrong" in limits and (wrong := limits["wrong"](item)):
            raise SettingError(name, f"{name} {item}: {wrong}")
    if not isinstance(value, int | float):
        return
    if not math.isfinite(value):
        raise SettingError(name, f"{name} {value}: must be a finite number")
    rules = [
        (value >= limits.get("low", value), f"{limits.get('low')} or more"),
        (value > limits.get("above", -math.inf), f"greater than {limits.get('above')}"),
        (value <= limits.get("high", value), f"{limits.get('high')} or less"),
        (value < limits.get("below", math.inf), f"less than {limits.get('below')}"),
    ]
    if broken := [words for holds, words in rules if not holds]:
        raise SettingError(name, f"{name} {value}: must be {' and '.join(broken)}")

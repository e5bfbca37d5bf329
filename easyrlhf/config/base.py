"""How a setting works: declared once as a dataclass field, converted and checked in one place.

Which settings exist is in config/. This module knows no stage and imports only the standard
library (PyYAML when a file is read or written).
"""

import difflib
import json
import math
import os
import re
import types
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields
from inspect import get_annotations
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

from easyrlhf.callables import name_of
from easyrlhf.errors import InputError
from easyrlhf.paths import split_paths

TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

# The order in which --help and args.yaml show the groups.
DATA, REWARDS, ONLINE, PPO, GRPO = "Model and data", "Rewards", "Rollouts", "PPO", "GRPO"
PREFERENCE, SAMPLING, OPTIMISATION, LORA, RUN = "Preference loss", "Sampling", "Optimisation", "LoRA", "Run"
VLLM = "Sampling with vLLM"
GROUPS = (DATA, PREFERENCE, REWARDS, ONLINE, PPO, GRPO, SAMPLING, VLLM, OPTIMISATION, LORA, RUN)

# What becomes of a setting when an unfinished run is continued (engine/compare.py), as its field declares it by
# `on_resume`; without that it must be as it was.
FREE = "free"  # it may be another: it changes no number but by rounding
FREE_BUT_FOR_BEST = "free without keep_best"  # the same, where the run does not end with its best evaluation
ROWS = "rows"  # its words may be others: the rows that are read by it must be the same
MODEL = "model"  # the model may lie elsewhere: the bytes of its files must be the same
FILES = "files"  # the files may lie elsewhere: their bytes must be the same; one may be edited in its place


class SettingError(InputError):
    """A setting has a value it cannot have.

    `setting` is its name, from which the command line finds the flag or the line of the YAML file.
    """

    def __init__(self, setting: str, message: str):
        super().__init__(message)
        self.setting = setting

    def __reduce__(self) -> tuple:
        """How it travels from one process to another."""
        return type(self), (self.setting, str(self)), self.__dict__


def opt(default: Any, help: str, **more: Any) -> Any:
    """Declare a setting: a dataclass field that carries its help text and limits; its group is that of its class.

    `more` may hold: `choices` (tuple of str), `low`/`high` (inclusive limits), `above`/`below`
    (exclusive limits), `many` (comma list: a YAML list is joined), `mapping` (JSON object: a YAML
    mapping becomes one), `exact` (texts in which white space counts: nothing is stripped, see
    split_texts), `apart` (whole texts: several are a YAML list, or the flag several times; see
    split_apart), `functions` (Python code may give functions, which get names), `metavar` (how --help
    names the value), `shown` (how --help shows the default;
    `{cls.…}` is filled in from the config class), `wrong` (a function that says what is wrong with a
    value, or None; of a comma list, with each item), `otherwise` (the way out for a value of another
    type), `on_resume` (FREE, ROWS, MODEL or FILES, above), `model` (true where it names a model, or several).
    """
    return field(default=default, metadata={"help": help, **more})


def restate(declared: type, name: str, help: str = "", **changed: Any) -> Any:
    """A setting that a base declares, with another help text where one is given, another default or other limits."""
    setting: Field = declared.__dataclass_fields__[name]
    default, more = changed.pop("default", setting.default), setting.metadata | changed
    return field(default=default, metadata=more | {"help": help or setting.metadata["help"]})


def setting_kind(setting: Field) -> tuple[type, bool]:
    """(bool, int, float or str; whether None is allowed too) of a setting."""
    if isinstance(setting.type, types.UnionType):
        return next(t for t in get_args(setting.type) if t is not types.NoneType), True
    return setting.type, False


def convert(setting: Field, value: Any) -> Any:
    """The value in the setting's own type, from a flag's text, a YAML value or Python.

    SettingError when it cannot be read as that type. "none" stands for None where None is allowed.
    """
    name, (kind, optional) = setting.name, setting_kind(setting)
    exact, apart = (setting.metadata.get(name, False) for name in ("exact", "apart"))
    if optional and (value is None or (isinstance(value, str) and not apart and value.lower() in ("none", "null"))):
        return None
    if apart and isinstance(value, list | tuple):
        value = APART.join(map(str, value))
    if setting.metadata.get("functions"):
        several = isinstance(value, list | tuple)
        named = [name_of(one) if callable(one) else one for one in (value if several else [value])]
        value = named if several else named[0]
    if setting.metadata.get("many") and isinstance(value, list | tuple):
        value = ",".join(escape_text(str(item)) if exact else str(item) for item in value)
    if setting.metadata.get("mapping") and isinstance(value, dict):
        value = json.dumps(value)
    if value is None or not isinstance(value, str | bool | int | float | os.PathLike):
        raise SettingError(name, f"{name} {value!r}: takes {_kind_words(setting)}")
    text = str(value) if exact or apart else str(value).strip()
    if kind is bool and text.lower() in TRUTH:
        return TRUTH[text.lower()]
    if isinstance(value, bool) and text.lower() in setting.metadata.get("choices", ()):
        return text.lower()
    if kind is str and text and not isinstance(value, bool):
        return expanded(name, text, setting.metadata.get("many", False)) if is_path(setting) else text
    if kind in (int, float) and not isinstance(value, bool):
        with suppress(ValueError):
            return kind(text)
        with suppress(ValueError):  # 3.0 and 1e3 are whole numbers
            if float(text).is_integer():
                return int(float(text))
    raise SettingError(name, f"{name} {text or repr(value)}: takes {_kind_words(setting)}")


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


def _kind_words(setting: Field) -> str:
    kind, optional = setting_kind(setting)
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]
    if "choices" in setting.metadata:
        words = "one of " + ", ".join(setting.metadata["choices"])
    words += " or none" if optional else ""
    return f"{words}; {setting.metadata['otherwise']}" if "otherwise" in setting.metadata else words


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


def split_list(value: str | None) -> tuple[str, ...]:
    """The items of a comma list; () for None."""
    return tuple(item.strip() for item in value.split(",") if item.strip()) if value else ()


APART = "\0"  # stands in no word of a command line


def split_apart(value: str | None) -> tuple[str, ...]:
    """The whole texts of a setting that has several; () for None."""
    return () if value is None else tuple(value.split(APART))


ESCAPES = {"n": "\n", "t": "\t", "r": "\r", ",": ",", "\\": "\\"}


def split_texts(value: str | None) -> tuple[str, ...]:
    r"""The items of a comma list of texts as they are, with \n, \t, \r, \, and \\ in them; () for None."""
    if value is None:
        return ()
    items, place = [""], 0
    while place < len(value):
        if value[place] == "\\" and value[place + 1 : place + 2] in ESCAPES:
            place += 1
            items[-1] += ESCAPES[value[place]]
        elif value[place] == ",":
            items.append("")
        else:
            items[-1] += value[place]
        place += 1
    return tuple(items)


def escape_text(text: str) -> str:
    """A text as split_texts reads it."""
    return text.translate(str.maketrans({meant: f"\\{letter}" for letter, meant in ESCAPES.items()}))


def read_yaml(path: str | Path) -> dict[str, tuple[Any, str]]:
    """The keys of a YAML settings file: name -> (value, "file:line").

    ValueError, with the line, when the file is no mapping of settings to values or sets one twice.
    """
    import yaml

    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: cannot be read: it is not UTF-8 ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must hold lines of the form 'setting: value'")
    found: dict[str, tuple[Any, str]] = {}
    twice: list[str] = []
    for key, _ in node.value:
        place = f"{path}:{key.start_mark.line + 1}"
        if key.value in found:
            twice.append(f"{place}: '{key.value}' was set before, at {found[key.value][1]}; keep one of the two")
        found[key.value] = (values.get(key.value), place)
    if twice:
        raise ValueError("\n".join(twice))
    return found


def yaml_places(path: str | Path) -> dict[str, str]:
    """Where the keys of a YAML file stand, those of blocks too: "block.key" or "list[0].key" -> "file:line"."""
    import yaml

    def walk(node: Any, name: str) -> None:
        if name:
            places[name] = f"{path}:{node.start_mark.line + 1}"
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = f"{name}.{key.value}" if name else str(key.value)
                walk(value, inner)
                places[inner] = f"{path}:{key.start_mark.line + 1}"
        elif isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                walk(item, f"{name}[{i}]")

    places: dict[str, str] = {}
    walk(yaml.compose(Path(path).expanduser().read_text(encoding="utf-8"), Loader=yaml.SafeLoader), "")
    return places


@dataclass(kw_only=True, frozen=True)
class Settings:
    """Common ground of all settings: conversion, limits, YAML. Frozen: no run changes its own.

    A class that names a group declares the settings of that group alone; a command's class has several such classes
    as bases. In a class without one stand settings of its bases, in other words or with another default, which stay
    in their groups. Fields come in the order of the bases from the last to the first.
    """

    stage: ClassVar[str]
    group: ClassVar[str]  # where --help shows the settings that the class itself declares
    opening: ClassVar[str] = ""  # what the command says at once; {self.name} is a setting

    def __new__(cls, **given: Any) -> Self:
        """Refuse names that are no settings, with the nearest one that is, and a call that lacks a setting."""
        names = {f.name for f in fields(cls)}
        if unknown := [name for name in given if name not in names]:
            from easyrlhf.config.suggestions import (
                explain_keyword,  # which knows all config classes, and so this module
            )

            raise SettingError(unknown[0], "\n".join(explain_keyword(name, cls, given[name]) for name in unknown))
        if lacking := [f for f in fields(cls) if f.default is MISSING and f.name not in given]:
            words = [f"{f.name} is required. {f.metadata['help']}" for f in lacking]
            raise SettingError(lacking[0].name, "\n".join(words))
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple:
        """What a copy is made from."""
        return (), {f.name: getattr(self, f.name) for f in fields(self)}

    def __post_init__(self):
        for setting in fields(self):
            value = convert(setting, getattr(self, setting.name))
            if value is not None:
                check_limits(setting, value)
            object.__setattr__(self, setting.name, value)
        self._check()

    def _check(self) -> None:
        """Rules that need more than one setting."""

    def value(self, name: str) -> Any:
        """The value of a setting by its name; None where the command has no such setting."""
        return getattr(self, name, None)

    @classmethod
    def grouped(cls) -> dict[str, list[Field]]:
        """The settings by group, as --help, init-config and args.yaml show them; no group is empty."""
        groups: dict[str, list[Field]] = {group: [] for group in GROUPS}
        for setting in fields(cls):
            groups[cls.group_of(setting.name)].append(setting)
        return {group: settings for group, settings in groups.items() if settings}

    @classmethod
    def group_of(cls, setting: str) -> str:
        """The group of the nearest class that declares the setting and names a group."""
        return next(one.group for one in cls.__mro__ if "group" in vars(one) and setting in get_annotations(one))

    def to_yaml(self) -> str:
        """The settings as YAML in the groups of --help; `--config` reads them back unchanged."""
        import yaml

        parts = []
        for group, settings in self.grouped().items():
            values = {setting.name: getattr(self, setting.name) for setting in settings}
            parts.append(f"# {group}\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
        return "\n".join(parts)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read settings from a YAML file; ValueError names the file and the key."""
        values = read_yaml(path)
        unknown = [name for name in values if name not in {f.name for f in fields(cls)}]
        if unknown:
            raise SettingError(unknown[0], "\n".join(f"{values[name][1]}: unknown key '{name}'" for name in unknown))
        given = {name: value for name, (value, _) in values.items()}
        wrong = cls.wrong_values(given)
        try:
            if not wrong:
                return cls(**given)
        except SettingError as error:
            wrong = [error]
        placed = [f"{values[e.setting][1] if e.setting in values else path}: {e}" for e in wrong]
        raise SettingError(wrong[0].setting, "\n".join(placed))

    @classmethod
    def wrong_values(cls, values: dict[str, Any]) -> list[SettingError]:
        """What is wrong with each value by itself; the constructor raises the first alone, or what several break."""
        wrong = []
        for setting in fields(cls):
            try:
                if setting.name in values and (value := convert(setting, values[setting.name])) is not None:
                    check_limits(setting, value)
            except SettingError as error:
                wrong.append(error)
        return wrong

    @classmethod
    def default_text(cls, setting: Field) -> str:
        """How --help shows the default of a setting; "" when there is nothing to show."""
        if "shown" in setting.metadata:
            text = setting.metadata["shown"].format(cls=cls)
        elif setting.default is MISSING or setting.default is None:
            text = ""
        elif setting_kind(setting)[0] is float:
            text = f"{setting.default:g}"
        else:
            text = str(setting.default).replace("True", "true").replace("False", "false")
        return text.replace("e-0", "e-")  # 2e-05 is written 2e-5

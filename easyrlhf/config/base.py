"""How a setting works: declared once as a dataclass field; read and checked as config/values.py says.

Which settings exist is in config/. This module knows no stage and imports only the standard
library (PyYAML when a file is read or written).
"""

from dataclasses import MISSING, Field, dataclass, field, fields
from inspect import get_annotations
from pathlib import Path
from typing import Any, ClassVar, Self

from easyrlhf.config.values import check_limits, convert, setting_kind
from easyrlhf.config.yaml_file import read_yaml
from easyrlhf.errors import SettingError

# The order in which --help and args.yaml show the groups.
DATA, REWARDS, ONLINE = "Model and data", "Rewards", "Rollouts"
PPO, GRPO, EBFT = "PPO", "GRPO", "EBFT"
PREFERENCE, SAMPLING, OPTIMISATION, LORA, RUN = "Preference loss", "Sampling", "Optimisation", "LoRA", "Run"
VLLM, ENVIRONMENT = "Sampling with vLLM", "Environment"
GROUPS = (DATA, PREFERENCE, REWARDS, ENVIRONMENT, ONLINE, PPO, GRPO, EBFT, SAMPLING, VLLM, OPTIMISATION, LORA, RUN)

# What becomes of a setting when an unfinished run is continued (run/differences.py), as its field declares it by
# `on_resume`; without that it must be as it was.
FREE = "free"  # it may be another: it changes no number but by rounding
FREE_BUT_FOR_BEST = "free without keep_best"  # the same, where the run does not end with its best evaluation
ROWS = "rows"  # its words may be others: the rows that are read by it must be the same
MODEL = "model"  # the model may lie elsewhere: the bytes of its files must be the same
FILES = "files"  # the files may lie elsewhere: their bytes must be the same; one may be edited in its place


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
    type), `on_resume` (FREE, ROWS, MODEL or FILES, above), `model` (true where it names a model, or several),
    `flag` (what the flag is called where no field can have that name, as a word of Python's).
    """
    return field(default=default, metadata={"help": help, **more})


def restate(declared: type, name: str, help: str = "", **changed: Any) -> Any:
    """A setting that a base declares, with another help text where one is given, another default or other limits."""
    setting: Field = declared.__dataclass_fields__[name]
    default, more = changed.pop("default", setting.default), setting.metadata | changed
    return field(default=default, metadata=more | {"help": help or setting.metadata["help"]})


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

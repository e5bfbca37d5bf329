"""What to say about a flag, YAML key or keyword that does not exist: which one was probably meant."""

import difflib
from collections.abc import Callable
from dataclasses import Field, dataclass, fields
from functools import cached_property
from typing import Any

from easyrlhf.config import TRAINING
from easyrlhf.config.base import Settings
from easyrlhf.config.peers import BLOCKS, FOREIGN, methods, path_of, translation, twins, unfold
from easyrlhf.config.peers.datasets import read_data_set
from easyrlhf.config.peers.sampling import explain_sampling
from easyrlhf.config.values import convert
from easyrlhf.errors import SettingError

STAGES: tuple[type[Settings], ...] = tuple(TRAINING.values())
CLOSE = 0.8  # below that a name is another word, and a guess would mislead
DESTROYS = ("overwrite",)  # never offered: who did not write it does not want it
UNTOLD: Any = object()  # a value that is not known


def is_foreign_block(key: str, value: Any) -> bool:
    """Whether the value of a key of ours is another program's block of that name, such as verl's reward_model."""
    return isinstance(value, dict) and any(path_of(name) in FOREIGN for name, _ in unfold(key, value))


def explain_unknown(typed: str, config_class: type[Settings], command: str, value: Any = UNTOLD) -> str:
    """What was meant by `typed`, a flag with its dashes or a YAML key without; in a block it is block.key."""
    asked = UnknownName(path_of(typed), config_class, command, value, "--" if typed.startswith("-") else "")
    start = f"unknown {'flag' if asked.dash else 'key'} {typed}: "
    return start + (asked.meaning() or f"{command} --help lists all settings")


def explain_keyword(name: str, config_class: type[Settings], value: Any = UNTOLD) -> str:
    """What was meant by a keyword that Python code gave to a config class; the same answers."""
    command = f"{config_class.stage}_train" if config_class in STAGES else config_class.__name__
    meaning = UnknownName(path_of(name), config_class, command, value).meaning()
    return f"{name}: is no setting of {config_class.__name__}" + (f"; {meaning}" if meaning else "")


@dataclass(frozen=True)
class UnknownName:
    """A name that is no setting of a command, and what was given with it.

    path     as path_of writes it: "key", or "block.key"
    command  for the words
    value    UNTOLD where it is not known
    dash     "--" before a flag, "" before a YAML key and a keyword
    """

    path: str
    config_class: type[Settings]
    command: str
    value: Any
    dash: str = ""

    @property
    def name(self) -> str:
        """The key without its block."""
        return self.path.rpartition(".")[2]

    @cached_property
    def settings(self) -> dict[str, Field]:
        """The command's settings by their names."""
        return {f.name: f for f in fields(self.config_class)}

    @cached_property
    def known(self) -> list[str]:
        """All that could have been typed in its place."""
        if not self.dash:
            return list(self.settings)
        switches = [f"no_{name}" for name, setting in self.settings.items() if setting.type is bool]
        return [*self.settings, "config", "version", "help", *switches]

    def meaning(self) -> str | None:
        """The words after the colon: the answer of the first rule that has one; None when none has."""
        return next(filter(None, (rule(self) for rule in RULES)), None)


def _with_underscores(asked: UnknownName) -> str | None:
    return f"it is spelled {asked.dash}{asked.path} here, with underscores" if asked.path in asked.known else None


def _method(asked: UnknownName) -> str | None:
    if asked.path not in methods.KEYS:
        return None
    value = None if asked.value is UNTOLD else asked.value
    return methods.explain_method(asked.path, value, asked.command.split()[-1])


def _data_set(asked: UnknownName) -> str | None:
    wanted = asked.path == "datasets" and isinstance(asked.value, dict)
    return f"here it is {read_data_set(asked.value)}" if wanted else None


def _out_of_its_block(asked: UnknownName) -> str | None:
    ours = asked.name in asked.known and asked.path not in FOREIGN
    return f"here it is {asked.dash}{asked.name}, outside of any block" if ours else None


def _sampling(asked: UnknownName) -> str | None:
    return explain_sampling(asked.name, asked.known, asked.dash)


def _another_systems(asked: UnknownName) -> str | None:
    """What another system's name is here, with a note on what differs, or why the value it has there is none here."""
    if not (found := translation(asked.path)):
        return None
    if here := [asked.dash + n for one in found.ours for n in (one, *twins(one)) if n in asked.known]:
        note = f" ({found.note})" if found.note else _refusal(asked, found.ours)
        return f"here it is {' and '.join(dict.fromkeys(here))}{note}"
    if found.ours:
        return f"that is {asked.dash}{found.ours[0]}, a setting of {_stages_with(found.ours[0])}"
    return found.note


def _refusal(asked: UnknownName, ours: tuple[str, ...]) -> str:
    """What to add where the one setting that a name is here does not take the value; "" where it does."""
    if len(ours) > 1 or ours[0] not in asked.settings or asked.value is UNTOLD:
        return ""
    try:
        convert(asked.settings[ours[0]], asked.value)
    except SettingError as error:
        return f", but {error}"
    return ""


def _twin(asked: UnknownName) -> str | None:
    same = [twin for twin in twins(asked.name) if twin in asked.known]
    return f"here it is {asked.dash}{same[0]}" if same else None


def _another_stages(asked: UnknownName) -> str | None:
    stages = _stages_with(asked.name)
    return f"it is a setting of {stages}, not of {asked.command}" if stages else None


def _block(asked: UnknownName) -> str | None:
    return "a block of settings there; here they stand at the top level" if asked.path in BLOCKS else None


def _nearest(asked: UnknownName) -> str | None:
    """The nearest name of ours that can have the value."""
    likely = [one for one in asked.known if one.startswith("no_") <= asked.name.startswith("no_")]
    for near in difflib.get_close_matches(asked.name, likely, 3, CLOSE):
        if near not in DESTROYS and (near not in asked.settings or _takes(asked.settings[near], asked.value)):
            return f"did you mean {asked.dash}{near}?"
    return None


def _takes(setting: Field, value: Any) -> bool:
    try:
        return value is UNTOLD or convert(setting, value) is not UNTOLD
    except SettingError:
        return False


RULES: tuple[Callable[[UnknownName], str | None], ...] = (  # the first that knows the name answers
    _with_underscores,
    _method,
    _data_set,
    _out_of_its_block,
    _sampling,
    _another_systems,
    _twin,
    _another_stages,
    _block,
    _nearest,
)


def _stages_with(name: str) -> str:
    """The commands that have a setting of this name: "sft_train and rm_train"; "" for none."""
    classes = [c for c in STAGES if name in {f.name for f in fields(c)}]
    names = [f"{c.stage}_train" for c in classes]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

"""What to say about a flag, YAML key or keyword that does not exist: which one was probably meant."""

import difflib
from dataclasses import Field, fields
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
    """What was meant by `typed`, a flag with its dashes or a YAML key without; in a block it is block.key.

    In turn: our name in another spelling, another system's name, another stage's, the nearest one that can have the
    value.
    """
    path, dash = path_of(typed), "--" if typed.startswith("-") else ""
    start = f"unknown {'flag' if dash else 'key'} {typed}: "
    return start + (_meaning(path, config_class, command, value, dash) or f"{command} --help lists all settings")


def explain_keyword(name: str, config_class: type[Settings], value: Any = UNTOLD) -> str:
    """What was meant by a keyword that Python code gave to a config class; the same answers."""
    command = f"{config_class.stage}_train" if config_class in STAGES else config_class.__name__
    meaning = _meaning(path_of(name), config_class, command, value, "")
    return f"{name}: is no setting of {config_class.__name__}" + (f"; {meaning}" if meaning else "")


def _meaning(path: str, config_class: type[Settings], command: str, value: Any, dash: str) -> str | None:
    """The words after the colon; None when nothing is known of the name."""
    name = path.rpartition(".")[2]
    known = [f.name for f in fields(config_class)]
    if dash:
        known += ["config", "version", "help"]
        known += [f"no_{f.name}" for f in fields(config_class) if f.type is bool]
    if path in known:
        return f"it is spelled {dash}{path} here, with underscores"
    if path in methods.KEYS:
        return methods.explain_method(path, None if value is UNTOLD else value, command.split()[-1])
    if path == "datasets" and isinstance(value, dict):
        return f"here it is {read_data_set(value)}"
    if name in known and path not in FOREIGN:
        return f"here it is {dash}{name}, outside of any block"
    if sampling := explain_sampling(name, known, dash):
        return sampling
    if found := translation(path):
        refusal = "" if found.note else _refusal(found.ours, config_class, value)
        return _translate(found.ours, found.note, known, dash) + refusal
    if same := [f"{dash}{twin}" for twin in twins(name) if twin in known]:
        return f"here it is {same[0]}"
    if stages := _stages_with(name):
        return f"it is a setting of {stages}, not of {command}"
    if path in BLOCKS:
        return "a block of settings there; here they stand at the top level"
    near = _near(name, config_class, known, value)
    return f"did you mean {dash}{near}?" if near else None


def _near(name: str, config_class: type[Settings], known: list[str], value: Any) -> str | None:
    """The nearest name of ours that can have the value; None when none is near."""
    settings = {f.name: f for f in fields(config_class)}
    likely = [one for one in known if one.startswith("no_") <= name.startswith("no_")]
    close = difflib.get_close_matches(name, likely, 3, CLOSE)
    able = [one for one in close if one not in DESTROYS and (one not in settings or _takes(settings[one], value))]
    return able[0] if able else None


def _takes(setting: Field, value: Any) -> bool:
    try:
        return value is UNTOLD or convert(setting, value) is not UNTOLD
    except SettingError:
        return False


def _translate(ours: tuple[str, ...], note: str, known: list[str], dash: str) -> str:
    here = [dash + n for one in ours for n in (one, *twins(one)) if n in known]
    if here:
        return f"here it is {' and '.join(dict.fromkeys(here))}" + (f" ({note})" if note else "")
    if ours:
        return f"that is {dash}{ours[0]}, a setting of {_stages_with(ours[0])}"
    return note


def _refusal(ours: tuple[str, ...], config_class: type[Settings], value: Any) -> str:
    """What to add where the one setting that a name is here does not take the value; "" where it does."""
    settings = [f for f in fields(config_class) if f.name in ours]
    if len(ours) > 1 or not settings or value is UNTOLD:
        return ""
    try:
        convert(settings[0], value)
    except SettingError as error:
        return f", but {error}"
    return ""


def _stages_with(name: str) -> str:
    """The commands that have a setting of this name: "sft_train and rm_train"; "" for none."""
    classes = [c for c in STAGES if name in {f.name for f in fields(c)}]
    names = [f"{c.stage}_train" for c in classes]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

"""What to say about a flag or YAML key that does not exist: which one was probably meant."""

import difflib
from dataclasses import fields

from easyrlhf.cli.foreign import FOREIGN, TWINS
from easyrlhf.config import (
    CPOConfig,
    DPOConfig,
    GRPOConfig,
    IPOConfig,
    KTOConfig,
    ORPOConfig,
    PPOConfig,
    RMConfig,
    RRHFConfig,
    SFTConfig,
    SimPOConfig,
)
from easyrlhf.settings import Settings

STAGES: tuple[type[Settings], ...] = (
    SFTConfig,
    RMConfig,
    PPOConfig,
    GRPOConfig,
    DPOConfig,
    IPOConfig,
    KTOConfig,
    ORPOConfig,
    SimPOConfig,
    CPOConfig,
    RRHFConfig,
)


def explain_unknown(typed: str, config_class: type[Settings], command: str) -> str:
    """What was meant by `typed`, a flag with its dashes or a YAML key without.

    In turn: our name in another spelling, another system's name, another stage's, the nearest one.
    """
    name = typed.lstrip("-").replace("-", "_").lower()
    dash = "--" if typed.startswith("-") else ""
    known = [f.name for f in fields(config_class)]
    if dash:
        known += ["config", "version", "help"]
        known += [f"no_{f.name}" for f in fields(config_class) if f.type is bool]
    start = f"unknown {'flag' if dash else 'key'} {typed}: "
    if name in known:
        return f"{start}it is spelled {dash}{name} here, with underscores"
    if name in FOREIGN:
        return start + _translate(name, known, dash)
    if twins := [f"{dash}{twin}" for twin in _twins(name) if twin in known]:
        return f"{start}here it is {twins[0]}"
    if stages := _stages_with(name):
        return f"{start}it is a setting of {stages}, not of {command}"
    if near := difflib.get_close_matches(name, known, 1):
        return f"{start}did you mean {dash}{near[0]}?"
    return f"{start}{command} --help lists all settings"


def _translate(name: str, known: list[str], dash: str) -> str:
    ours, note = FOREIGN[name]
    if here := [dash + n for one in ours for n in (one, *_twins(one)) if n in known]:
        return f"here it is {' and '.join(here)}" + (f" ({note})" if note else "")
    if ours:
        return f"that is {dash}{ours[0]}, a setting of {_stages_with(ours[0])}"
    return note


def _twins(name: str) -> list[str]:
    """What other stages call the setting of this name."""
    return [other for pair in TWINS if name in pair for other in pair if other != name]


def _stages_with(name: str) -> str:
    """The commands that have a setting of this name: "sft_train and rm_train"; "" for none."""
    classes = [c for c in STAGES if name in {f.name for f in fields(c)}]
    names = [f"{c.stage}_train" for c in classes]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)

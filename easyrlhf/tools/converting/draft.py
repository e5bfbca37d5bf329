"""What becomes of another program's settings: line by line one of ours, or a comment that says why there is none."""

import math
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from easyrlhf.config import TRAINING, TrainConfig
from easyrlhf.config.peers import FOREIGN, path_of, translation, twins
from easyrlhf.config.values import check_limits, convert
from easyrlhf.errors import SettingError

# what other programs' settings may become: none of them ranks responses
CONFIGS: dict[str, type[TrainConfig]] = {stage: config for stage, config in TRAINING.items() if stage != "rrhf"}
SECRET = ("hub_token", "hf_hub_token", "hf_token", "hf_use_auth_token", "swanlab_token", "wandb_api_key", "use_wandb")
SECRET += ("swanlab_api_key", "swanlab_lark_secret", "swanlab_lark_webhook_url", "comet_api_key", "push_to_hub_token")
SECRET += ("comet_experiment_key", "mlflow_tracking_uri")  # the latter may hold a password
NEEDED = {"train_data": "rows.jsonl"}  # stands in where theirs names no data

Rule = Callable[["Draft", str, Any], None]


@dataclass(frozen=True)
class Line:
    """One line of ours: `name: value`, with a remark; name "" for a comment alone, which is the remark."""

    name: str
    value: Any
    remark: str


@dataclass
class Draft:
    """The lines that become of `theirs`: keys in blocks as block.key, what is null left out.

    stage    our stage; its config class says which settings there are
    devices  that theirs ran on: batch sizes of one device times so many
    """

    stage: str
    theirs: dict[str, Any]
    devices: int = 1
    done: set[str] = field(default_factory=set)
    lines: list[Line] = field(default_factory=list)

    @property
    def config_class(self) -> type[TrainConfig]:
        """The settings of the stage."""
        return CONFIGS[self.stage]

    @property
    def own(self) -> dict[str, Any]:
        """The stage's settings by name."""
        return {setting.name: setting for setting in fields(self.config_class)}

    @property
    def settings(self) -> dict[str, Any]:
        """Ours: name -> value."""
        return {line.name: line.value for line in self.lines if line.name}

    def take(self, *names: str) -> Any:
        """The value of the first of these keys of theirs, None when there is none; all of them are then done with."""
        given = [name for name in names if name in self.theirs]
        self.done |= set(given)
        return self.theirs[given[0]] if given else None

    def find(self, name: str) -> Any:
        """The value of a key of theirs, at the top or inside of a block, that another rule answers; None for none."""
        return next((value for key, value in self.theirs.items() if key.rpartition(".")[2] == name), None)

    def set(self, name: str, value: Any, remark: str = "") -> None:
        """Give a setting of ours a value; the first to do so wins. A comment where the stage has no such setting."""
        if name not in self.own:
            self.leave(name, value, f"{self.stage}_train has no {name}")
        elif name not in self.settings:
            self.lines.append(Line(name, self.typed(name, value), remark))

    def default(self, name: str, value: Any, whose: str) -> None:
        """What theirs does when nothing is said, where the stage has such a setting."""
        if name in self.own:
            self.set(name, value, f"{whose}'s default")

    def typed(self, name: str, value: Any) -> Any:
        """A value in our setting's own type, where it can be; settle() has the last word."""
        try:
            return convert(self.own[name], value)
        except SettingError:
            return value

    def drop(self, name: str) -> None:
        """Take a setting of ours back."""
        self.lines = [line for line in self.lines if line.name != name]

    def leave(self, key: str, value: Any, why: str) -> None:
        """Say why `key: value` of theirs has no counterpart."""
        self.lines.append(comment(key, value, why))

    def keep(self, key: str, value: Any, name: str, remark: str = "") -> None:
        """Give our setting the value as it is, or say why it cannot have it."""
        if name not in self.own:
            self.leave(key, value, f"{self.stage}_train has no {name}")
            return
        if name in self.settings:
            self.leave(key, value, f"here {name}, which is {yaml_value(self.settings[name])} already")
            return
        try:
            check_limits(self.own[name], convert(self.own[name], value))
        except (SettingError, TypeError) as error:
            self.leave(key, value, f"here {error}")
        else:
            self.set(name, value, remark)

    def carry(self, key: str, value: Any) -> None:
        """What the tables of names say of a key that no rule is about."""
        path = path_of(key)
        name = path.rpartition(".")[2]
        if name in self.own and path not in FOREIGN:
            return self.keep(key, value, name)
        found = translation(path)
        if found is None:
            same = [twin for twin in twins(name) if twin in self.own]
            return self.keep(key, value, same[0]) if same else self.leave(key, value, elsewhere(name))
        here = [n for one in found.ours for n in (one, *twins(one)) if n in self.own]
        if here and not found.note:
            return self.keep(key, value, here[0])
        if found.ours and not here:
            return self.leave(key, value, f"{found.ours[0]} here, which {self.stage}_train does not have")
        return self.leave(key, value, (f"here {' and '.join(dict.fromkeys(here))}: " if here else "") + found.note)

    def settle(self) -> None:
        """Turn what our config class refuses into comments, one refusal after the other."""
        while (refused := self.refusal()) is not None:
            named = [refused.setting, *(name for name in self.settings if name in str(refused))]
            blamed = next((name for name in named if name in self.settings), None)
            if blamed is None:
                raise refused
            self.lines = [
                comment(line.name, line.value, f"here {refused}") if line.name == blamed else line
                for line in self.lines
            ]

    def refusal(self) -> SettingError | None:
        """What our config class says against the settings, None when it takes them."""
        needed = {name: value for name, value in NEEDED.items() if self.own[name].default is MISSING}
        try:
            self.config_class(**needed | self.settings)
        except SettingError as error:
            return error
        return None


def elsewhere(name: str) -> str:
    """Why the stage does not know a name that no table has."""
    others = [f"{stage}_train" for stage, config in CONFIGS.items() if name in {one.name for one in fields(config)}]
    return f"a setting of {' and '.join(others)}" if others else "no counterpart is known"


def comment(key: str, value: Any, why: str) -> Line:
    """The line that says why `key: value` has no counterpart; keys to accounts are not written down."""
    text = "…" if key.rpartition(".")[2] in SECRET else yaml_value(value)
    return Line("", None, f"{key}: {text} ({why})")


def yaml_value(value: Any) -> str:
    """A value on one line, as YAML writes it."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").replace("\n", " ")


def finite_or_none(value: Any) -> float | None:
    """A finite number of theirs, which YAML may have read as a text ("5e-6"); None for anything else."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def whole_from_one(value: Any, default: int) -> int:
    """A whole number from 1 on; the default for anything else."""
    found = finite_or_none(value)
    return int(found) if found is not None and found >= 1 else default


def truth(value: Any) -> bool:
    """Whether a switch of theirs is on."""
    return value is True or str(value).lower() in ("true", "yes", "on", "1")

"""What a reward function may ask for beside completions and columns: how far training is, and ways to log."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from easyrlhf.rewards.batch import RewardBatch, RewardError, TrainerState, as_number

LOGGING = ("log_metric", "log_extra")
ASIDES = ("step", "trainer_state", *LOGGING)
METRIC_NAME = re.compile(r"[\w.-]+")
OWN_METRICS = ("mean", "std")  # of every source's scores


@dataclass
class Logged:
    """What has been logged of so many completions.

    numbers  names and numbers, of log_metric
    columns  name → a value for each completion, of log_extra
    parts    name → a number for each completion, None where it does not apply: what a reward is made of
    """

    count: int = 0
    numbers: list[tuple[str, float]] = field(default_factory=list)
    columns: dict[str, list] = field(default_factory=dict)
    parts: dict[str, list] = field(default_factory=dict)

    def log_metric(self, name: str, value: float) -> None:
        """Keep a number for metrics.jsonl, where it is `reward/<function>/<name>`, the mean over a step's calls.

        Raises ValueError for a name that cannot be one, and for what is no finite number.
        """
        number = as_number(value)
        if not (isinstance(name, str) and METRIC_NAME.fullmatch(name)) or name in OWN_METRICS:
            raise ValueError(f"log_metric: {name!r} is no name; use letters, digits, _ . and -, not mean or std")
        if number is None or number != number:
            raise ValueError(f"log_metric: {name} is {value!r}, which is not a finite number")
        self.numbers.append((name, number))

    def log_extra(self, column: str, values: list) -> None:
        """Keep values of the completions, in their order, for rollouts.jsonl, all in one call or in several, as in TRL.

        Raises ValueError for a name that is no text, and for values that are no list.
        """
        values = values.tolist() if hasattr(values, "tolist") else values
        if not (isinstance(column, str) and column.strip()):
            raise ValueError(f"log_extra: {column!r} is no name of a column; it is log_extra(name, values)")
        if not isinstance(values, list | tuple):
            raise ValueError(f"log_extra: {column} is a {type(values).__name__}; give a list, one value per completion")
        self.columns.setdefault(column, []).extend(map(storable, values))

    def check(self, who: str, batch: RewardBatch) -> None:
        """Raise RewardError unless every column has one value per completion of the batch."""
        for name, values in self.columns.items():
            if len(values) != len(batch):
                raise RewardError(
                    f"{who} logged {len(values)} values of {name} (log_extra) for {len(batch)} completions; "
                    f"it must log one each. The first of them:\n{batch.sample()}"
                )

    def take(self, name: str, other: "Logged") -> None:
        """Take what a function of this name has logged of the same completions."""
        self.numbers += [(f"{name}/{metric}", value) for metric, value in other.numbers]
        self.columns |= {f"{name}/{column}": values for column, values in other.columns.items()}
        self.parts |= {f"{name}/{part}": values for part, values in other.parts.items()}

    def append(self, other: "Logged") -> None:
        """Take what has been logged of further completions; a column that one of the two lacks is None there."""
        for own, others in ((self.columns, other.columns), (self.parts, other.parts)):
            for name in dict.fromkeys([*own, *others]):
                own[name] = own.get(name, [None] * self.count) + others.get(name, [None] * other.count)
        self.numbers += other.numbers
        self.count += other.count

    def rows(self) -> list[dict[str, Any]]:
        """The columns as one dict for each completion."""
        return [{name: values[place] for name, values in self.columns.items()} for place in range(self.count)]


def storable(value: Any) -> Any:
    """A value as JSON can hold it: itself, the number or list that a tensor or an array is, or its text."""
    value = value.tolist() if hasattr(value, "tolist") else value
    try:
        return json.loads(json.dumps(value, allow_nan=False))  # as it is now: the function may go on to change it
    except (TypeError, ValueError):
        return str(value)


def asides_of(state: TrainerState, logged: Logged) -> dict[str, Any]:
    """All of them, by name."""
    return {"step": state.global_step, "trainer_state": state} | {name: getattr(logged, name) for name in LOGGING}

"""What a reward function may ask for beside completions and columns: how far training is, and a way to log numbers."""

import re
from collections.abc import Callable

from easyrlhf.rewards.batch import TrainerState, as_number

LOGGING = "log_metric"
ASIDES = ("step", "trainer_state", LOGGING)
METRIC_NAME = re.compile(r"[\w.-]+")
OWN_METRICS = ("mean", "std")  # of every source's scores


class Logged(list[tuple[str, float]]):
    """What one call of a function has logged: names and numbers."""

    def log_metric(self, name: str, value: float) -> None:
        """Keep a number for metrics.jsonl, where it is `reward/<function>/<name>`, the mean over a step's calls.

        Raises ValueError for a name that cannot be one, and for what is no finite number.
        """
        number = as_number(value)
        if not (isinstance(name, str) and METRIC_NAME.fullmatch(name)) or name in OWN_METRICS:
            raise ValueError(f"log_metric: {name!r} is no name; use letters, digits, _ . and -, not mean or std")
        if number is None or number != number:
            raise ValueError(f"log_metric: {name} is {value!r}, which is not a finite number")
        self.append((name, number))


def asides_of(state: TrainerState, log_metric: Callable[[str, float], None]) -> dict:
    """All of them, by name."""
    return {"step": state.global_step, "trainer_state": state, LOGGING: log_metric}

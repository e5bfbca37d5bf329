"""Two programs taking turns, step by step, in one process: what else the machine does meets both alike."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from transformers import TrainerCallback

WARM_UP = 1  # pairs at the start that do not count


@dataclass(frozen=True)
class Lap:
    """One step of one side: what it got done, and how long it took.

    seconds      by the clock on the wall
    cpu_seconds  of this process alone: what others had of the machine is not in it
    """

    units: float
    seconds: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.units / self.seconds

    @property
    def cpu_rate(self) -> float:
        """Units a second of CPU time."""
        return self.units / self.cpu_seconds


class Clock:
    """Both times since it was made."""

    def __init__(self):
        self.started, self.cpu_started = time.perf_counter(), time.process_time()

    def lap(self, units: float) -> Lap:
        """What was done since, and how long it took."""
        return Lap(units, time.perf_counter() - self.started, time.process_time() - self.cpu_started)


@dataclass(frozen=True)
class Paired:
    """The steps of both sides, in pairs."""

    ours: list[Lap]
    theirs: list[Lap]

    def ratios(self, rate: str = "rate") -> list[float]:
        """Our rate over theirs, of each pair that counts."""
        pairs = zip(self.ours[WARM_UP:], self.theirs[WARM_UP:], strict=True)
        return [getattr(ours, rate) / getattr(theirs, rate) for ours, theirs in pairs]

    def as_result(self, scale: float = 1.0) -> dict:
        """The fields of a Result that follow from the pairs; rates are multiplied by `scale`."""
        rates = {side: median(lap.rate for lap in getattr(self, side)[WARM_UP:]) * scale for side in ("ours", "theirs")}
        ratios, by_cpu = self.ratios(), median(self.ratios("cpu_rate"))
        return rates | {"ratio": median(ratios), "spread": (min(ratios), max(ratios)), "cpu_ratio": by_cpu}


def timed(step: Callable[[], float]) -> Lap:
    """Take one step, which returns what it got done."""
    clock = Clock()
    return clock.lap(step())


def by_turns(ours: Callable[[], float], theirs: Callable[[], float], pairs: int) -> Paired:
    """Take so many steps of each, and those of the warm-up before."""
    found = Paired([], [])
    for _ in range(WARM_UP + pairs):
        found.theirs.append(timed(theirs))
        found.ours.append(timed(ours))
    return found


class Turns(TrainerCallback):
    """After each step of a peer's trainer, one of ours. The peer's clock stands still meanwhile.

    ours    takes our step; returns what it got done
    theirs  what the peer got done in the step that just ended
    """

    def __init__(self, ours: Callable[[], float], theirs: Callable[[], float]):
        self.ours, self.theirs = ours, theirs
        self.paired = Paired([], [])

    def on_train_begin(self, args, state, control, **_):
        """Start the peer's clock."""
        self.clock = Clock()

    def on_step_end(self, args, state, control, **_):
        """Stop it, take our step, start it again."""
        self.paired.theirs.append(self.clock.lap(self.theirs()))
        self.paired.ours.append(timed(self.ours))
        self.clock = Clock()

"""Two programs taking turns, step by step, in one process: what else the machine does meets both alike."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from transformers import TrainerCallback

WARM_UP = 1  # pairs at the start that do not count


@dataclass(frozen=True)
class Lap:
    """One step of one side: what it got done, and how long it took.

    seconds      by the clock on the wall
    cpu_seconds  of this process alone: what others had of the machine is not in it
    memory       bytes that the step took on the GPU beyond what was held before it; None without a GPU
    """

    units: float
    seconds: float
    cpu_seconds: float
    memory: int | None = None

    @property
    def rate(self) -> float:
        """Units a second."""
        return self.units / self.seconds

    @property
    def cpu_rate(self) -> float:
        """Units a second of CPU time."""
        return self.units / self.cpu_seconds


class Clock:
    """Both times since it was made. A GPU, which works on after a call returns, is waited for before they are read."""

    def __init__(self):
        self.held = 0
        if wait_for_gpu():
            torch.cuda.reset_peak_memory_stats()
            self.held = torch.cuda.memory_allocated()
        self.started, self.cpu_started = time.perf_counter(), time.process_time()

    def lap(self, units: float) -> Lap:
        """What was done since, and how long it took."""
        memory = torch.cuda.max_memory_allocated() - self.held if wait_for_gpu() else None
        return Lap(units, time.perf_counter() - self.started, time.process_time() - self.cpu_started, memory)


def wait_for_gpu() -> bool:
    """Wait until the GPU has done all it was told; False when this process computes on none."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return torch.cuda.is_initialized()


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
        """The fields of a Result that follow from the pairs; rates are multiplied by `scale`.

        On a GPU memory takes the place of the ratio of CPU times, which says nothing there.
        """
        rates = {side: median(lap.rate for lap in getattr(self, side)[WARM_UP:]) * scale for side in ("ours", "theirs")}
        ratios = self.ratios()
        found = rates | {"ratio": median(ratios), "spread": (min(ratios), max(ratios))}
        if self.ours[-1].memory is None:
            return found | {"cpu_ratio": median(self.ratios("cpu_rate"))}
        taken = (median(lap.memory for lap in side[WARM_UP:]) / 2**30 for side in (self.ours, self.theirs))
        return found | {"memory": tuple(taken)}


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

"""Seconds spent in named phases."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Timer:
    """Adds up the wall time of phases: `with timer("rollout"): …`.

    told  called with the name of each phase that begins
    """

    def __init__(self, told: Callable[[str], None] = lambda phase: None):
        self.seconds: Counter[str] = Counter()
        self._told = told

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self._told(phase)
        started = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - started

"""Seconds spent in named phases."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Timer:
    """Adds up the wall time of phases: `with timer("rollout"): …`."""

    def __init__(self):
        self.seconds: Counter[str] = Counter()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - started

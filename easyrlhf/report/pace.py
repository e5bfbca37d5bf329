"""How long the rest of a run will take."""

import time
from collections.abc import Callable, Mapping

Seen = Mapping[str, tuple[int, float]]


class Pace:
    """What each kind of work (step, eval, save) has taken so far, and how long the rest will take.

    ahead  → kind → how many are still to come
    guess  kind → what one takes, in steps, before any was seen
    """

    def __init__(self, ahead: Callable[[], Mapping[str, int]], guess: Mapping[str, float] | None = None):
        self._ahead, self._guess = ahead, guess or {}
        self._seen: dict[str, tuple[int, float]] = {}
        self._estimate: tuple[float, float] | None = None  # seconds left, and when that was said

    def saw(self, kind: str, seconds: float) -> None:
        """One of a kind is done, and took so long."""
        count, spent = self._seen.get(kind, (0, 0.0))
        self._seen[kind] = count + 1, spent + seconds
        left = seconds_left(self._ahead(), self._seen, self._guess)
        self._estimate = None if left is None else (left, time.monotonic())

    def left(self, kind: str) -> str:
        """Time to the end, as m:ss or h:mm:ss; "" before the first step.

        It runs down while one of a kind is under way, by no more than that was expected to take.
        """
        if self._estimate is None:
            return ""
        seconds, said = self._estimate
        under_way = seconds_each(kind, self._seen, self._guess)
        return clock(max(0.0, seconds - min(time.monotonic() - said, under_way)))

    def speed(self, unit: str) -> str:
        """The mean pace of the steps, each of which is such a unit."""
        count, seconds = self._seen.get("step", (0, 0.0))
        if not count:
            return ""
        pace = count / max(seconds, 1e-9)
        return f"{pace:.2f} {unit}/s" if pace >= 0.1 else f"{1 / pace:.1f} s/{unit}"


def seconds_left(ahead: Mapping[str, int], seen: Seen, guess: Mapping[str, float]) -> float | None:
    """Seconds that everything still to come takes, each kind of work at its mean pace so far; None before the first
    step is done.

    ahead  kind (step, eval, save) → how many are still to come
    seen   kind → (how many are done, seconds they took in all)
    guess  kind → what one takes, in steps, as long as none has been seen; nothing where it is not given
    """
    if "step" not in seen:
        return None
    return sum(number * seconds_each(kind, seen, guess) for kind, number in ahead.items())


def seconds_each(kind: str, seen: Seen, guess: Mapping[str, float]) -> float:
    """What one of a kind takes, as seconds_left counts it."""
    if kind in seen:
        count, seconds = seen[kind]
        return seconds / count
    return guess[kind] * seconds_each("step", seen, guess) if kind in guess and "step" in seen else 0.0


def clock(seconds: float) -> str:
    """`2:05`, `1:02:05`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

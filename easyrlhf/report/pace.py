"""How long the rest of a run will take."""

from collections.abc import Mapping

Seen = Mapping[str, tuple[int, float]]


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

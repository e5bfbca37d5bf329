"""How each check of the diagnostics table reads the history: pure functions, history -> Finding.

A history is the rows of metrics.jsonl, [{"step": 1, "loss": 0.7, …}, …], where None stands for a
number that was not finite. A finder returns None when the history cannot tell.
"""

from collections.abc import Callable
from dataclasses import dataclass

from easyrlhf.report.metrics import metric, show

History = list[dict]
RECENT = 10  # rows that make "lately"; one row is too noisy to judge by
ENOUGH = 3  # fewer rows than this and there is no verdict


@dataclass(frozen=True)
class Finding:
    """What a check measured: the number, its severity (ok, warn, alarm), a sentence with it."""

    value: float | None
    severity: str
    says: str


Finder = Callable[[History], Finding | None]


def values(history: History, name: str) -> list[float]:
    """The finite values of one metric, in order; rows without it are passed over."""
    return [row[name] for row in history if row.get(name) is not None]


def early_and_late(history: History, name: str) -> tuple[float, float] | None:
    """Means over the first and the last quarter of a metric's values, RECENT rows at most.

    None below 2 * ENOUGH values.
    """
    series = values(history, name)
    if len(series) < 2 * ENOUGH:
        return None
    window = min(RECENT, max(ENOUGH, len(series) // 4))
    return mean(series[:window]), mean(series[-window:])


def mean(series: list[float]) -> float:
    """The arithmetic mean; the series is not empty."""
    return sum(series) / len(series)


def above(name: str, alarm: float | None = None, enough: int = ENOUGH) -> Finder:
    """Fires when the recent mean is above the healthy range; from `alarm` up, as an alarm."""

    def find(history: History) -> Finding | None:
        series = values(history, name)
        if len(series) < enough:
            return None
        recent = mean(series[-RECENT:])
        severity = "ok" if recent <= metric(name).high else "warn"
        if alarm is not None and recent >= alarm:
            severity = "alarm"
        return Finding(recent, severity, f"{name} is {show(name, recent)} lately")

    return find


def below(name: str, alarm: float | None = None, enough: int = ENOUGH) -> Finder:
    """Fires when the recent mean is below the healthy range; from `alarm` down, as an alarm."""

    def find(history: History) -> Finding | None:
        series = values(history, name)
        if len(series) < enough:
            return None
        recent = mean(series[-RECENT:])
        severity = "ok" if recent >= metric(name).low else "warn"
        if alarm is not None and recent <= alarm:
            severity = "alarm"
        return Finding(recent, severity, f"{name} is {show(name, recent)} lately")

    return find


def not_finite(*names: str) -> Finder:
    """An alarm when one of these metrics was ever NaN or infinite (null in metrics.jsonl)."""

    def find(history: History) -> Finding | None:
        if not history:
            return None
        for row in history:
            for name in names:
                if name in row and row[name] is None:
                    return Finding(None, "alarm", f"{name} is not finite at step {row['step']}")
        return Finding(None, "ok", "every loss, gradient and score is finite")

    return find


def length_hacking(history: History) -> Finding | None:
    """Score and length move together; an alarm when the answers have grown by half as well."""
    name = "health/reward_length_correlation"
    series = values(history, name)
    if len(series) < ENOUGH:
        return None
    recent = mean(series[-RECENT:])
    says = f"score and length correlate at {show(name, recent)} lately"
    severity = "warn" if recent > metric(name).high else "ok"
    lengths = early_and_late(history, "length/completion_mean")
    if lengths:
        early, late = lengths
        says += f"; answers went from {early:.0f} to {late:.0f} tokens"
        if severity == "warn" and late >= 1.5 * early:
            severity = "alarm"
    return Finding(recent, severity, says)


def entropy_collapse(history: History) -> Finding | None:
    """The next-token entropy has fallen to a fifth of where it began, or lower."""
    name = "policy/entropy_avg"
    ends = early_and_late(history, name)
    if ends is None:
        return None
    early, late = ends
    severity = "warn" if late < early / 5 else "ok"
    return Finding(late, severity, f"entropy went from {early:.3f} to {late:.3f} nats a token")


def score_not_rising(history: History) -> Finding | None:
    """The mean score of the last rows is not above that of the first."""
    name = "objective/scores"
    ends = early_and_late(history, name)
    if ends is None:
        return None
    early, late = ends
    severity = "ok" if late > early else "warn"
    return Finding(late, severity, f"the mean score went from {early:+.3f} to {late:+.3f}")


def length_baseline(history: History) -> Finding | None:
    """The newest held-out accuracy is not a point above what answer length alone reaches."""
    rows = [row for row in history if row.get("eval/length_baseline_accuracy") is not None]
    if not rows or rows[-1].get("eval/rewards/accuracies") is None:
        return None
    accuracy = rows[-1]["eval/rewards/accuracies"]
    baseline = rows[-1]["eval/length_baseline_accuracy"]
    severity = "ok" if accuracy > baseline + 0.01 else "warn"
    return Finding(
        accuracy,
        severity,
        f"held-out accuracy is {accuracy:.1%}, length alone reaches {baseline:.1%}",
    )


def near_chance(history: History) -> Finding | None:
    """The accuracy is near 50 %: the newest held-out one, else the recent training rows."""
    held_out = values(history, "eval/rewards/accuracies")
    training = values(history, "rewards/accuracies")
    if held_out:
        name, accuracy = "eval/rewards/accuracies", held_out[-1]
    elif len(training) >= RECENT:
        name, accuracy = "rewards/accuracies", mean(training[-RECENT:])
    else:
        return None
    severity = "ok" if accuracy >= metric(name).low else "warn"
    return Finding(accuracy, severity, f"{name} is {accuracy:.1%}, and guessing gives 50%")


def overfitting(history: History) -> Finding | None:
    """Held-out loss is over 2 % above its best while training loss has fallen since that step."""
    held_out = [row for row in history if row.get("eval/loss") is not None]
    if len(held_out) < 2:
        return None
    best, last = min(held_out, key=lambda row: row["eval/loss"]), held_out[-1]
    says = f"eval/loss is {last['eval/loss']:.4g}; its best was {best['eval/loss']:.4g}"
    says += f" at step {best['step']}"
    before = values([row for row in history if row["step"] <= best["step"]], "loss")[-RECENT:]
    after = values([row for row in history if row["step"] > best["step"]], "loss")[-RECENT:]
    rose = last["eval/loss"] > 1.02 * best["eval/loss"]
    fell = bool(before and after) and mean(after) < mean(before)
    return Finding(last["eval/loss"], "warn" if rose and fell else "ok", says)


def ties(history: History) -> Finding | None:
    """The newest held-out share of equal scores is above the healthy range."""
    series = values(history, "eval/ties")
    if not series:
        return None
    severity = "ok" if series[-1] <= metric("eval/ties").high else "warn"
    return Finding(series[-1], severity, f"{series[-1]:.1%} of held-out pairs have equal scores")

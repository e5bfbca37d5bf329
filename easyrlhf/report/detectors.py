"""How each check of the diagnostics table reads the history: pure functions, history -> Finding.

A finder returns None when the history cannot tell. Its cost does not grow with the steps of the run, as it is asked
after every one of them.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from easyrlhf.report.metrics import metric, show
from easyrlhf.report.verdict import Finding

RECENT = 10  # rows that make "lately"; one row is too noisy to judge by
ENOUGH = 3  # fewer rows than this and there is no verdict


@dataclass
class Series:
    """The finite values of one metric and the steps they belong to."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


class History:
    """The rows of metrics.jsonl, {"step": 1, "loss": 0.7, …}, by metric.

    steps   how many steps there are
    series  metric → its finite values; rows without it are passed over
    broken  metric → the first step at which it was NaN or infinite (None in metrics.jsonl)
    """

    def __init__(self, rows: Iterable[dict] = ()):
        self.steps = 0
        self.series: dict[str, Series] = {}
        self.broken: dict[str, int] = {}
        for row in rows:
            self.add(row)

    def add(self, row: dict) -> None:
        """Append a row."""
        self.steps += row["step"] > 0  # the row before the first step is an evaluation
        for name, value in row.items():
            if value is None or not math.isfinite(value):
                self.broken.setdefault(name, row["step"])
            else:
                series = self.series.setdefault(name, Series())
                series.steps.append(row["step"])
                series.values.append(value)


Finder = Callable[[History], Finding | None]


def values(history: History, name: str) -> list[float]:
    """The finite values of one metric, in order."""
    return history.series[name].values if name in history.series else []


def early_and_late(history: History, name: str) -> tuple[float, float] | None:
    """Means over the first and the last quarter of a metric's values, RECENT rows at most.

    None below 2 * ENOUGH values.
    """
    series = values(history, name)
    if len(series) < 2 * ENOUGH:
        return None
    few = window(len(series))
    return mean(series[:few]), mean(series[-few:])


def window(count: int) -> int:
    """How many of so many values are the first and the last ones of early_and_late."""
    return min(RECENT, max(ENOUGH, count // 4))


def lately(history: History, name: str) -> float | None:
    """A metric as it is at the end: an evaluation's last value, else the mean of the last ones; None without any.

    The headline, the key numbers and the page over several runs all say this.
    """
    series = values(history, name)
    if not series:
        return None
    return series[-1] if name.startswith("eval/") else mean(series[-window(len(series)) :])


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
    """An alarm when one of these metrics was ever NaN or infinite."""

    def find(history: History) -> Finding | None:
        if not history.steps:
            return None
        broken = {name: history.broken[name] for name in names if name in history.broken}
        if broken:
            first = min(broken, key=broken.get)
            return Finding(None, "alarm", f"{first} is not finite at step {broken[first]}")
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


def not_nearer(history: History) -> Finding | None:
    """The distance of the last rows is not below that of the first."""
    ends = early_and_late(history, "ebft/cfm")
    if ends is None:
        return None
    early, late = ends
    severity = "ok" if late < early else "warn"
    return Finding(late, severity, f"the squared distance went from {early:.3f} to {late:.3f}")


def reward_saturation(history: History) -> Finding | None:
    """The spread of every reward source within a step has fallen to a tenth of where it began, or lower."""
    names = [name for name in history.series if name.startswith("reward/") and name.endswith("/std")]
    ends = {name: early_and_late(history, name) for name in names if len(values(history, name)) >= 2 * RECENT}
    if not ends:
        return None
    alive = [name for name, (early, late) in ends.items() if late > early / 10]
    shown = (alive or list(ends))[0]
    early, late = ends[shown]
    source = shown.removeprefix("reward/").removesuffix("/std")
    says = f"the standard deviation of {source} within a step went from {early:.3g} to {late:.3g}"
    return Finding(late, "ok" if alive else "warn", says)


# what over-optimised answers show that the score does not
SYMPTOMS = {"health/repetition": "repetition", "health/eos_rate": "the share of answers that end"}


def over_optimisation(history: History) -> Finding | None:
    """The score rises while the answers, far from the reference, get worse by a measure the score does not have."""
    ends = {name: early_and_late(history, name) for name in ("objective/scores", "objective/kl", *SYMPTOMS)}
    if None in ends.values():
        return None
    early, late = ends["objective/scores"]
    kl = mean(values(history, "objective/kl")[-RECENT:])
    says = f"the mean score went from {early:+.3f} to {late:+.3f} at a KL of {kl:.1f} nats"
    worse = [
        f"{what} went from {ends[name][0]:.3f} to {ends[name][1]:.3f}"
        for name, what in SYMPTOMS.items()
        if is_worse(name, *ends[name])
    ]
    hacking = length_hacking(history)
    if hacking and hacking.severity == "alarm":
        worse.append(hacking.says)
    if late > early and kl > metric("objective/kl").high and worse:
        return Finding(kl, "alarm", f"{says}, while {' and '.join(worse)}")
    return Finding(kl, "ok", says)


def is_worse(name: str, early: float, late: float) -> bool:
    """Whether a metric has left its healthy range further than it was at the start."""
    entry = metric(name)
    too_high = entry.high is not None and late > max(entry.high, early)
    return too_high or (entry.low is not None and late < min(entry.low, early))


def falling_likelihood(history: History) -> Finding | None:
    """The chosen answers' log-probability a token has fallen steeply."""
    ends = early_and_late(history, "logps/chosen")
    if ends is None:
        return None
    early, late = ends
    severity = "warn" if late < early - 0.5 else "ok"
    return Finding(late, severity, f"logps/chosen went from {early:+.2f} to {late:+.2f} nats a token")


def length_baseline(history: History) -> Finding | None:
    """The newest held-out accuracy is not a point above what answer length alone reaches."""
    held_out, alone = values(history, "eval/rewards/accuracies"), values(history, "eval/length_baseline_accuracy")
    if not (held_out and alone):
        return None
    accuracy, baseline = held_out[-1], alone[-1]
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
    """Held-out loss is over 2 %, and 0.005, above its best while training loss has fallen since that step."""
    held_out, training = history.series.get("eval/loss"), history.series.get("loss", Series())
    if held_out is None or len(held_out.values) < 2:
        return None
    best, last = min(held_out.values), held_out.values[-1]
    best_step = held_out.steps[held_out.values.index(best)]
    says = f"eval/loss is {last:.4g}; its best was {best:.4g} at step {best_step}"
    split = bisect_right(training.steps, best_step)
    before = training.values[max(0, split - RECENT) : split]
    after = training.values[max(split, len(training.values) - RECENT) :]
    rose = last > best + max(0.02 * best, 0.005)
    fell = bool(before and after) and mean(after) < mean(before)
    return Finding(last, "warn" if rose and fell else "ok", says)


def ties(history: History) -> Finding | None:
    """The newest held-out share of equal scores is above the healthy range."""
    series = values(history, "eval/ties")
    if not series:
        return None
    severity = "ok" if series[-1] <= metric("eval/ties").high else "warn"
    return Finding(series[-1], severity, f"{series[-1]:.1%} of held-out pairs have equal scores")

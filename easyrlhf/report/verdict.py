"""Checks and what they say, one scale and one form for whatever is examined: a run's numbers, a model, data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from easyrlhf.report.metrics import metric

SEVERITIES = ("alarm", "warn", "ok")


@dataclass(frozen=True)
class Finding:
    """What a check measured: the number, its severity (ok, warn, alarm), a sentence with it."""

    value: float | None
    severity: str
    says: str


@dataclass(frozen=True)
class Verdict:
    """What one check says; severity is ok, warn or alarm, the remedy is "" when ok."""

    severity: str
    metric: str
    value: float | None
    healthy: str
    message: str
    remedy: str

    @property
    def text(self) -> str:
        """Message and remedy."""
        return f"{self.message} {self.remedy}".strip()


@dataclass(frozen=True)
class Check:
    """One row of a table of checks.

    name     what it finds, a noun or what is bad about it
    metric   the numbers it is about
    find     what was measured → Finding, or None when that cannot tell
    remedy   what to do
    means    what it means; "" where the name says it
    good     the good news; "" is "No <name>"
    healthy  the healthy range; "" is the metric's own

    Of a check of a run's numbers:
    stages   where it applies
    fires    when it fires, in words
    live     whether it speaks while the run goes on; a check of what came out is for the end
    """

    name: str
    metric: str
    find: Callable[[Any], Finding | None]
    remedy: str
    means: str = ""
    good: str = ""
    healthy: str = ""
    stages: tuple[str, ...] = ()
    fires: str = ""
    live: bool = True

    def judge(self, finding: Finding, **words: str) -> Verdict:
        """The verdict on what it found; `words` fill the braces of its texts."""
        healthy = self.healthy or metric(self.metric).healthy
        if finding.severity == "ok":
            message, remedy = f"{self.good or f'No {self.name}'}: {finding.says}.", ""
        else:
            means, remedy = self.means.format(**words), self.remedy.format(**words)
            message = f"{self.name[0].upper()}{self.name[1:]}: {finding.says}. {means}".rstrip()
        return Verdict(finding.severity, self.metric, finding.value, healthy, message, remedy)


def worst_first(found: list[Verdict]) -> list[Verdict]:
    """Sorted by severity; those of one severity stay in their order."""
    return sorted(found, key=lambda verdict: SEVERITIES.index(verdict.severity))


def worst(found: list[Verdict]) -> str:
    """The worst severity among verdicts; ok when there is none."""
    return min((verdict.severity for verdict in found), key=SEVERITIES.index, default="ok")


def alarms(found: list[Verdict]) -> list[str]:
    """The texts of the alarms among verdicts."""
    return [verdict.text for verdict in found if verdict.severity == "alarm"]


def health_sentence(found: list[Verdict], total: int) -> str:
    """How many alarms and warnings there are, and how many of so many checks could be judged."""
    judged, trouble = len(found), trouble_in(found)
    if judged == total:
        return f"{trouble}." if trouble else f"All {total} checks are healthy."
    return f"{trouble or 'No warning'}; {judged} of {total} checks could be judged."


def trouble_in(found: list[Verdict]) -> str:
    """`2 alarms and 1 warning`; "" where there is none."""
    counts = [verdict.severity for verdict in found]
    parts = [_plural(counts.count("alarm"), "alarm"), _plural(counts.count("warn"), "warning")]
    return " and ".join(part for part in parts if part)


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' if count > 1 else ''}" if count else ""

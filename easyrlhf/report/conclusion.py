"""What is to be said of a run first: one sentence and one colour, the same on every page and in the terminal."""

from dataclasses import dataclass
from pathlib import Path

from easyrlhf.report.diagnostics import checks_of, verdicts
from easyrlhf.report.plots import examination_of
from easyrlhf.report.rm_verdict import doctor_verdicts, is_whole, lean
from easyrlhf.report.stage_view import outcome
from easyrlhf.report.verdict import SEVERITIES, health_sentence, trouble_in, worst


@dataclass(frozen=True)
class Conclusion:
    """The worst severity among all verdicts, a sentence that carries it, and the trouble alone: `2 alarms`, or ""."""

    severity: str
    sentence: str
    trouble: str


def concluded(stage: str, rows: list[dict], examined: dict | None = None) -> Conclusion:
    """Of a run whose metrics.jsonl has these rows.

    examined  a reward model's examination; it counts where it is whole
    """
    found, beside = verdicts(stage, rows), doctor_verdicts(examined) if examined and is_whole(examined) else []
    every = found + beside
    said = [outcome(stage, rows)] + ([health_sentence(every, len(checks_of(stage)) + len(beside))] if rows else [])
    said += [lean(beside)] if beside else []
    return Conclusion(worst(every), " ".join(said), trouble_in(every))


def examined_by(stage: str, folder: Path) -> dict:
    """The examination in a stage's folder; {} where the stage has none."""
    return examination_of(folder) if stage == "rm" else {}


def all_concluded(runs: dict[str, Conclusion]) -> Conclusion:
    """Of several runs, label → conclusion: the worst first, each with its trouble."""
    order = sorted(runs.items(), key=lambda run: SEVERITIES.index(run[1].severity))
    parts = [f"{label}: {one.trouble}" for label, one in order if one.trouble]
    healthy = [label for label, one in runs.items() if not one.trouble]
    said = "; ".join([*parts, *([f"{', '.join(healthy)}: no warning"] if healthy else [])])
    return Conclusion(order[0][1].severity, f"{said}.", "; ".join(parts))

"""The verdict on a reward model: one table of checks."""

import importlib.metadata
import json
from pathlib import Path

from easyrlhf.report.plots import DOCTOR_FILE
from easyrlhf.report.rm_eval import wilson
from easyrlhf.report.verdict import Check, Finding, Verdict, worst, worst_first

SEVERELY_OFF, MANY_TIES = 0.1, 0.01  # calibration error beyond chance; share of equal scores
FEW = 20  # pairs
LEAN = {
    "ok": "PPO may lean on this reward model.",
    "warn": "PPO may lean on this reward model with care: see the warnings.",
    "alarm": "PPO should not lean on this reward model: see the alarms.",
}


def beats_length(found: dict) -> Finding:
    """The accuracy's interval lies above what answer length alone reaches."""
    (low, high), accuracy, alone = found["ci95"], found["accuracy"], found["length_baseline_accuracy"]
    severity = "ok" if low > alone else "warn" if accuracy > alone else "alarm"
    says = f"it ranks {accuracy:.1%} of {found['n']:,} pairs right ({low:.1%} to {high:.1%}); length alone {alone:.1%}"
    return Finding(accuracy, severity, says)


def right_at_every_length(found: dict) -> Finding:
    """In no range of length gaps is it surely wrong more often than right: the 95 % interval reaches one half."""
    ends = [wilson(part["accuracy"] * part["n"], part["n"])[1] for part in found["by_length_gap"]]
    worst_end = min(ends)
    part = found["by_length_gap"][ends.index(worst_end)]
    says = f"where chosen − rejected is {gap_name(part)} tokens, {right_of(part)}"
    if worst_end < 0.5:
        return Finding(part["accuracy"], "alarm", says)
    least = f"no range is surely below one half; the lowest: {says}"
    return Finding(part["accuracy"], "ok", least + (", too few to tell" if part["accuracy"] < 0.5 else ""))


def right_of(part: dict) -> str:
    """`87.2% of 252 pairs are right`; of a few pairs their number, as a share of them would say too much."""
    right, n = part["accuracy"] * part["n"], part["n"]
    if n >= FEW:
        return f"{part['accuracy']:.1%} of {n:,} pairs are right"
    count = f"{right:g}" if right else "none"
    return f"{count} of {n:,} {'pair is' if n == 1 else 'pairs are'} right"


def gap_name(part: dict) -> str:
    """`-3`, `+1 to +9`: tokens by which the chosen answer is longer."""
    low, high = part["low"], part["high"]
    return f"{low:+d}" if low == high else f"{low:+d} to {high:+d}"


def cannot_be_fooled(found: dict) -> Finding | None:
    """No probe scores above the chosen answers in the mean."""
    if "probes" not in found:
        return None
    best = max(found["probes"]["answers"], key=lambda answer: answer["over_chosen"])
    gap = best["over_chosen"]
    says = f"its favourite nonsense ({best['name']}) scores {gap:+.2f} against the chosen answers"
    return Finding(gap, "alarm" if gap > 0 else "ok", says)


def sees_the_answer_alone(found: dict) -> Finding | None:
    """Scores do not depend on padding, batch size or the place in the batch."""
    if "invariance" not in found:
        return None
    part = found["invariance"]
    what = max(part["differences"], key=part["differences"].get)
    severity = "ok" if part["largest"] <= part["limit"] else "alarm"
    return Finding(part["largest"], severity, f"the same answer differs by {part['largest']:.1e} at most ({what})")


def means_its_margins(found: dict) -> Finding:
    """The calibration error is not far above that of a perfectly calibrated model on as many pairs."""
    error, chance = found["ece"], found["ece_by_chance"]
    severity = "warn" if error > chance + SEVERELY_OFF else "ok"
    bins, soft = found["calibration"], "label_entropy" in found
    pairs = sum(b["n"] for b in bins)
    sure = sum(b["n"] * b["predicted"] for b in bins) / pairs
    right = sum(b["n"] * b["observed"] for b in bins) / pairs if soft else found["accuracy"]
    share = f"{right:.1%} {'by the labels' if soft else 'right'}"
    says = f"{sure:.1%} sure in the mean, {share}; error {error:.3f} (chance {chance:.3f})"
    return Finding(error, severity, says)


def tells_apart(found: dict) -> Finding:
    """Few pairs get equal scores."""
    ties = found["ties"]
    return Finding(ties, "warn" if ties > MANY_TIES else "ok", f"{ties:.1%} of the pairs have equal scores")


CHECKS = (
    Check(
        "not better than length",
        "accuracy, ci95, length_baseline_accuracy",
        beats_length,
        "Use more pairs, or pairs whose lengths are close; a wide interval asks for more held-out pairs.",
        good="Better than length",
        healthy="interval above the length baseline",
    ),
    Check(
        "biased by length",
        "by_length_gap",
        right_at_every_length,
        "It counts words, and PPO will learn to write more (or less) of them: balance the lengths of the pairs.",
        good="Right at every length gap",
        healthy="no range surely below 50 %",
    ),
    Check(
        "hackable",
        "probes",
        cannot_be_fooled,
        "PPO will find them: add such answers to the training pairs as rejected ones, or a reward function.",
        good="Not fooled",
        healthy="every probe below the chosen answers",
    ),
    Check(
        "scores the batch too",
        "invariance",
        sees_the_answer_alone,
        "Padding or batch leak into the score: score in float32, or with another attn_implementation.",
        good="Scores the answer alone",
        healthy="at most 1e-4 in float32, 5e-2 in bf16",
    ),
    Check(
        "miscalibrated",
        "ece, ece_by_chance",
        means_its_margins,
        "Ranking is not harmed, but a score is worth more or less than it says: set kl_coef (grpo_train: beta) by the "
        "KL it leads to. Fewer epochs make a model that is too sure less so.",
        good="Calibrated",
        healthy=f"at most {SEVERELY_OFF:g} above chance",
    ),
    Check(
        "many ties",
        "ties",
        tells_apart,
        "Answers are cut to the same tokens, or the precision is too coarse: raise max_length, score in float32.",
        good="Few ties",
        healthy=f"below {MANY_TIES:g}",
    ),
)


def doctor_verdicts(found: dict) -> list[Verdict]:
    """A verdict for each check that the examination can answer, the worst first."""
    asked = [(check, check.find(found)) for check in CHECKS]
    return worst_first([check.judge(finding) for check, finding in asked if finding is not None])


def is_whole(found: dict) -> bool:
    """Whether an examination looked at everything, not at the held-out scores alone."""
    return "probes" in found


def lean(verdicts: list[Verdict]) -> str:
    """Whether PPO should lean on the model, in one sentence."""
    return LEAN[worst(verdicts)]


def write_examination(folder: Path, reward_model: str, data: str, precision: str, measured: dict) -> dict:
    """Write folder/doctor.json; returns what it holds: what was examined, the numbers, the verdict.

    measured  rm_evaluation's and examine's numbers
    """
    verdicts = doctor_verdicts(measured)
    found = {
        "reward_model": reward_model,
        "data": data,
        "precision": precision,
        "easyrlhf_version": importlib.metadata.version("easyrlhf"),
        "verdict": {"severity": worst(verdicts), "lean": lean(verdicts), "why": [v.text for v in verdicts]},
        **measured,
    }
    (folder / DOCTOR_FILE).write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    return found

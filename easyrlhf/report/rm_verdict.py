"""The verdict on a reward model: one table of checks, and the page and the console lines that show them."""

import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from easyrlhf.report import blocks
from easyrlhf.report.diagnostics import SEVERITIES, Verdict, worst
from easyrlhf.report.plots import DOCTOR_FILE, examination_charts
from easyrlhf.report.rm_eval import wilson

PAGE_FILE = "doctor.html"
SEVERELY_OFF, MANY_TIES = 0.1, 0.01  # calibration error beyond chance; share of equal scores
FEW = 20  # pairs
LEAN = {
    "ok": "PPO may lean on this reward model.",
    "warn": "PPO may lean on this reward model with care: see the warnings.",
    "alarm": "PPO should not lean on this reward model: see the alarms.",
}
SOURCE_HEAD = ("file", "pairs", "accuracy", "95 % interval")
GAP_HEAD = ("tokens, chosen − rejected", "pairs", "accuracy")
PROBE_HEAD = ("probe", "mean score", "− chosen", "− rejected", "above chosen")
INVARIANCE_HEAD = ("scored again with", "largest difference")


@dataclass(frozen=True)
class RMFinding:
    """What a check measured: the number, its severity (ok, warn, alarm), and a sentence."""

    value: float
    severity: str
    says: str


@dataclass(frozen=True)
class RMCheck:
    """One row of the table.

    good     the good news
    bad      the bad news
    measure  where the number is in doctor.json
    healthy  the healthy range
    remedy   what to do otherwise
    find     examination → Finding, or None where it was not measured
    """

    good: str
    bad: str
    measure: str
    healthy: str
    remedy: str
    find: Callable[[dict], RMFinding | None]


def beats_length(found: dict) -> RMFinding:
    """The accuracy's interval lies above what answer length alone reaches."""
    (low, high), accuracy, alone = found["ci95"], found["accuracy"], found["length_baseline_accuracy"]
    severity = "ok" if low > alone else "warn" if accuracy > alone else "alarm"
    says = f"it ranks {accuracy:.1%} of {found['n']:,} pairs right ({low:.1%} to {high:.1%}); length alone {alone:.1%}"
    return RMFinding(accuracy, severity, says)


def right_at_every_length(found: dict) -> RMFinding:
    """In no range of length gaps is it surely wrong more often than right: the 95 % interval reaches one half."""
    ends = [wilson(part["accuracy"] * part["n"], part["n"])[1] for part in found["by_length_gap"]]
    worst_end = min(ends)
    part = found["by_length_gap"][ends.index(worst_end)]
    says = f"where chosen − rejected is {gap_name(part)} tokens, {right_of(part)}"
    if worst_end < 0.5:
        return RMFinding(part["accuracy"], "alarm", says)
    least = f"no range is surely below one half; the lowest: {says}"
    return RMFinding(part["accuracy"], "ok", least + (", too few to tell" if part["accuracy"] < 0.5 else ""))


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


def cannot_be_fooled(found: dict) -> RMFinding | None:
    """No probe scores above the chosen answers in the mean."""
    if "probes" not in found:
        return None
    best = max(found["probes"]["answers"], key=lambda answer: answer["over_chosen"])
    gap = best["over_chosen"]
    says = f"its favourite nonsense ({best['name']}) scores {gap:+.2f} against the chosen answers"
    return RMFinding(gap, "alarm" if gap > 0 else "ok", says)


def sees_the_answer_alone(found: dict) -> RMFinding | None:
    """Scores do not depend on padding, batch size or the place in the batch."""
    if "invariance" not in found:
        return None
    part = found["invariance"]
    what = max(part["differences"], key=part["differences"].get)
    severity = "ok" if part["largest"] <= part["limit"] else "alarm"
    return RMFinding(part["largest"], severity, f"the same answer differs by {part['largest']:.1e} at most ({what})")


def means_its_margins(found: dict) -> RMFinding:
    """The calibration error is not far above that of a perfectly calibrated model on as many pairs."""
    error, chance = found["ece"], found["ece_by_chance"]
    severity = "warn" if error > chance + SEVERELY_OFF else "ok"
    sure = sum(b["n"] * b["predicted"] for b in found["calibration"]) / found["n"]
    says = f"{sure:.1%} sure in the mean, {found['accuracy']:.1%} right; error {error:.3f} (chance {chance:.3f})"
    return RMFinding(error, severity, says)


def tells_apart(found: dict) -> RMFinding:
    """Few pairs get equal scores."""
    ties = found["ties"]
    return RMFinding(ties, "warn" if ties > MANY_TIES else "ok", f"{ties:.1%} of the pairs have equal scores")


CHECKS = (
    RMCheck(
        "Better than length",
        "Not better than length",
        "accuracy, ci95, length_baseline_accuracy",
        "interval above the length baseline",
        "Use more pairs, or pairs whose lengths are close; a wide interval asks for more held-out pairs.",
        beats_length,
    ),
    RMCheck(
        "Right at every length gap",
        "Biased by length",
        "by_length_gap",
        "no range surely below 50 %",
        "It counts words, and PPO will learn to write more (or less) of them: balance the lengths of the pairs.",
        right_at_every_length,
    ),
    RMCheck(
        "Not fooled",
        "Hackable",
        "probes",
        "every probe below the chosen answers",
        "PPO will find them: add such answers to the training pairs as rejected ones, or a reward function.",
        cannot_be_fooled,
    ),
    RMCheck(
        "Scores the answer alone",
        "Scores the batch too",
        "invariance",
        "at most 1e-4 in float32, 5e-2 in bf16",
        "Padding or batch leak into the score: score in float32, or with another attn_implementation.",
        sees_the_answer_alone,
    ),
    RMCheck(
        "Calibrated",
        "Miscalibrated",
        "ece, ece_by_chance",
        f"at most {SEVERELY_OFF:g} above chance",
        "Ranking is not harmed, but a score is worth more or less than it says: set kl_coef (grpo_train: beta) by the "
        "KL it leads to. Fewer epochs make a model that is too sure less so.",
        means_its_margins,
    ),
    RMCheck(
        "Few ties",
        "Many ties",
        "ties",
        f"below {MANY_TIES:g}",
        "Answers are cut to the same tokens, or the precision is too coarse: raise max_length, score in float32.",
        tells_apart,
    ),
)


def doctor_verdicts(found: dict) -> list[Verdict]:
    """A verdict for each check that the examination can answer, the worst first."""
    verdicts = []
    for check in CHECKS:
        finding = check.find(found)
        if finding is None:
            continue
        message = f"{check.good if finding.severity == 'ok' else check.bad}: {finding.says}."
        remedy = "" if finding.severity == "ok" else check.remedy
        verdicts.append(Verdict(finding.severity, check.measure, finding.value, check.healthy, message, remedy))
    return sorted(verdicts, key=lambda verdict: SEVERITIES.index(verdict.severity))


def is_whole(found: dict) -> bool:
    """Whether an examination looked at everything, not at the held-out scores alone."""
    return "probes" in found


def lean(verdicts: list[Verdict]) -> str:
    """Whether PPO should lean on the model, in one sentence."""
    return LEAN[worst(verdicts)]


def doctor_lines(found: dict, width: int | None = None) -> list[str]:
    """The examination as lines of text: numbers, files, probes, verdict; tables as `columns` has them."""
    lines = [
        f"{found['reward_model']}: {found['n']:,} held-out pairs, {found['precision']}",
        *(f"  {name:<28}{value}" for name, value in number_rows(found)),
        "",
        *aligned_columns(SOURCE_HEAD, source_rows(found), width),
        "",
        *aligned_columns(GAP_HEAD, gap_rows(found), width),
        "",
        *aligned_columns(PROBE_HEAD, probe_rows(found), width),
        "",
        *aligned_columns(INVARIANCE_HEAD, invariance_rows(found), width),
        "",
    ]
    verdicts = doctor_verdicts(found)
    lines.append(f"verdict: {lean(verdicts)}")
    return lines + [f"  {verdict.severity}: {verdict.text}" for verdict in verdicts]


def number_rows(found: dict) -> list[tuple[str, str]]:
    """The numbers to remember: (name, text)."""
    low, high = found["ci95"]
    return [
        ("accuracy", f"{found['accuracy']:.1%}  (95 % interval {low:.1%} to {high:.1%})"),
        ("length alone", f"{found['length_baseline_accuracy']:.1%}"),
        ("ties", f"{found['ties']:.1%}"),
        ("calibration error", f"{found['ece']:.3f}  (chance {found['ece_by_chance']:.3f})"),
    ]


def source_rows(found: dict) -> list[tuple[str, ...]]:
    """A row for each file."""
    return [
        (part["source"], f"{part['n']:,}", f"{part['accuracy']:.1%}", "{:.1%} to {:.1%}".format(*part["ci95"]))
        for part in found.get("by_source", [])
    ]


def gap_rows(found: dict) -> list[tuple[str, ...]]:
    """A row for each range of length gaps."""
    return [(gap_name(part), f"{part['n']:,}", f"{part['accuracy']:.1%}") for part in found["by_length_gap"]]


def probe_rows(found: dict) -> list[tuple[str, ...]]:
    """A row for each probe, below those of the chosen and the rejected answers."""
    part = found["probes"]
    gap = part["chosen"] - part["rejected"]
    ends = [
        ("chosen answers", f"{part['chosen']:+.2f}", "", f"{gap:+.2f}", ""),
        ("rejected answers", f"{part['rejected']:+.2f}", f"{-gap:+.2f}", "", ""),
    ]
    return ends + [
        (
            answer["name"],
            f"{answer['score']:+.2f}",
            f"{answer['over_chosen']:+.2f}",
            f"{answer['over_rejected']:+.2f}",
            f"{answer['above_chosen']:.0%}",
        )
        for answer in part["answers"]
    ]


def invariance_rows(found: dict) -> list[tuple[str, ...]]:
    """A row for each way of scoring the same answers again."""
    return [(what, f"{difference:.1e}") for what, difference in found["invariance"]["differences"].items()]


def aligned_columns(head: tuple[str, ...], rows: list[tuple[str, ...]], width: int | None = None) -> list[str]:
    """A table as lines, the first column left and the others right.

    width  columns of the terminal; a wider table becomes several below one another, each with the first column
    """
    widths = [2 + max(map(len, column)) for column in zip(head, *rows, strict=True)]
    groups: list[list[int]] = [[]]
    for i, one in enumerate(widths[1:], 1):
        if width and groups[-1] and widths[0] + sum(widths[k] for k in groups[-1]) + one > width:
            groups.append([])
        groups[-1].append(i)
    tables = [
        [
            f"  {cells[0]}".ljust(widths[0]) + "".join(cells[i].rjust(widths[i]) for i in group)
            for cells in (head, *rows)
        ]
        for group in groups
    ]
    return [text.rstrip() for i, table in enumerate(tables) for text in ([""] if i else []) + table]


def verdict_section(found: dict) -> str:
    """The section of a page that says whether PPO should lean on the model; "" before the whole examination."""
    if not is_whole(found):
        return ""
    verdicts = doctor_verdicts(found)
    return blocks.section("Should PPO lean on it?", blocks.verdict_list(verdicts), note=lean(verdicts))


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


def write_doctor_page(folder: Path, found: dict) -> Path:
    """Write folder/doctor.html, one file that needs no other; returns its path.

    found  what doctor.json holds
    """
    verdicts = doctor_verdicts(found)
    low, high = found["ci95"]
    numbers = [
        ("accuracy", f"{found['accuracy']:.1%}", f"95% interval {low:.1%} to {high:.1%}, {found['n']:,} pairs"),
        ("length alone", f"{found['length_baseline_accuracy']:.1%}", "the better of longer and shorter wins"),
        ("calibration error", f"{found['ece']:.3f}", f"chance alone {found['ece_by_chance']:.3f}"),
        ("ties", f"{found['ties']:.1%}", "of the pairs"),
        ("invariance", f"{found['invariance']['largest']:.1e}", f"limit {found['invariance']['limit']:g}"),
    ]
    sections = [
        blocks.section("Key numbers", blocks.key_number_block(numbers)),
        blocks.section("Verdicts", blocks.verdict_list(verdicts)),
        blocks.section("Pictures", blocks.grid(*(blocks.chart(each) for each in examination_charts(found)))),
        blocks.section("Accuracy by file", blocks.html_table(SOURCE_HEAD, source_rows(found))),
        blocks.section(
            "Probes", blocks.html_table(PROBE_HEAD, probe_rows(found)), note=f"{found['probes']['n']} held-out prompts."
        ),
        blocks.section(
            "Invariance",
            blocks.html_table(INVARIANCE_HEAD, invariance_rows(found)),
            note=f"{found['invariance']['n']} answers, each scored alone and in other company.",
        ),
    ]
    page = blocks.html_page(
        f"Examination of {found['reward_model']}",
        sections,
        lead=lean(verdicts),
        severity=worst(verdicts),
        over="easyrlhf · doctor",
        foot=f"Written by easyrlhf {found['easyrlhf_version']}",
    )
    path = folder / PAGE_FILE
    path.write_text(page, encoding="utf-8", errors="replace")
    return path

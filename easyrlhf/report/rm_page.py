"""The examination of a reward model as lines for the console, as a section of a page, and as a page."""

from pathlib import Path

from easyrlhf.report import blocks
from easyrlhf.report.plots import examination_charts
from easyrlhf.report.rm_verdict import doctor_verdicts, gap_name, is_whole, lean
from easyrlhf.report.text_table import aligned_columns
from easyrlhf.report.verdict import worst

PAGE_FILE = "doctor.html"
SOURCE_HEAD = ("file", "pairs", "accuracy", "95 % interval")
GAP_HEAD = ("tokens, chosen − rejected", "pairs", "accuracy")
PROBE_HEAD = ("probe", "mean score", "− chosen", "− rejected", "above chosen")
INVARIANCE_HEAD = ("scored again with", "largest difference")


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
        *((name, f"{number}  ({note})") for name, number, note in soft_label_numbers(found) + ceiling_numbers(found)),
    ]


def ceiling_numbers(found: dict) -> list[tuple[str, str, str]]:
    """What the agreement of labels says of the highest accuracy: (name, number, note); nothing without labels."""
    if "ceiling" not in found:
        return []
    top, (low, high) = found["ceiling"], found["ceiling"]["ci95"]
    note = f"{low:.1%} to {high:.1%}; two labels agree in {top['agreement']:.1%}, {top['of']}"
    return [("ceiling of the labels", f"{top['accuracy']:.1%}", note)]


def soft_label_numbers(found: dict) -> list[tuple[str, str, str]]:
    """What is said of labels that are not sure: (name, number, note); nothing where all are sure."""
    if "label_entropy" not in found:
        return []
    cost, floor = found["cross_entropy"], found["label_entropy"]
    return [
        ("cross-entropy", f"{cost:.3f}", f"nats; at least {floor:.3f}, the entropy of the labels; a coin 0.693"),
        ("labelled ties", f"{found['labelled_ties']:,}", "not in the accuracy"),
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


def verdict_section(found: dict) -> str:
    """The section of a page that says whether PPO should lean on the model; "" before the whole examination."""
    if not is_whole(found):
        return ""
    verdicts = doctor_verdicts(found)
    return blocks.section("Should PPO lean on it?", blocks.verdict_list(verdicts), note=lean(verdicts))


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
        *soft_label_numbers(found),
        *ceiling_numbers(found),
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

"""report.html of a stage folder: what happened, whether it is healthy, and what to look at."""

import json
from pathlib import Path

from easyrlhf.report import blocks
from easyrlhf.report.conclusion import concluded, examined_by
from easyrlhf.report.detectors import RECENT, History, early_and_late, lately, window
from easyrlhf.report.diagnostics import verdicts
from easyrlhf.report.info import STAGE_TITLES, RunInfo, data_lines, facts, versions
from easyrlhf.report.log import METRICS_FILE, SAMPLES_FILE, read_rows
from easyrlhf.report.metrics import told
from easyrlhf.report.plots import RM_EVAL_FILE, charts
from easyrlhf.report.rm_page import verdict_section
from easyrlhf.report.rollout_rows import ROLLOUTS_FILE, extras, pick, rollout_prompt, row_marks, stored_rows
from easyrlhf.report.stage_view import VIEWS
from easyrlhf.report.transcript import TranscriptLine, episode_marks, said_lines
from easyrlhf.report.verdict import Verdict

Answer = tuple[str, str | list[TranscriptLine], str]  # label; a text, or the lines of an episode; numbers
REPORT_FILE = "report.html"
MOST_SAMPLES = 6
MOST_ROLLOUTS, MOST_CHARACTERS, MOST_LINES = 4, 3000, 40  # of each kind; of each text; of an episode
STANDING_OUT = {
    "worst": "The lowest scores",
    "best": "The highest scores",
    "longest": "The longest answers",
    "furthest": "The furthest from the reference, by KL",
}


def write_report(folder: Path, *, stage: str, settings: dict, info: RunInfo, page: Path | None = None) -> Path:
    """Write a page from a folder's metrics.jsonl, samples.jsonl, rm_eval.json and doctor.json.

    page      where to; None is folder/report.html
    settings  the resolved settings, name -> value
    info      what stage.json holds
    returns the path of the page, one file that needs no other
    """
    folder = Path(folder)
    rows = read_rows(folder / METRICS_FILE)
    title = STAGE_TITLES[stage] + ("" if folder.name == stage else f": {folder.name}")
    examined = examined_by(stage, folder)
    conclusion = concluded(stage, rows, examined)
    sections = [
        *_numbers(folder, stage, rows),
        *_verdicts(verdicts(stage, rows)),
        *_examination(examined),
        *_charts(folder, stage),
        *_samples(read_rows(folder / SAMPLES_FILE)),
        *_rollouts(folder, rows),
        *_background(settings, info),
    ]
    html = blocks.html_page(
        title,
        sections,
        lead=conclusion.sentence,
        severity=conclusion.severity,
        over=f"easyrlhf · {stage}",
        foot=f"Written by easyrlhf {info.get('easyrlhf_version', '')}".strip(),
    )
    path = page or folder / REPORT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8", errors="replace")
    return path


def before_and_after(rows: list[dict]) -> list[tuple[str, list[Answer]]]:
    """Sample rows grouped by prompt, the first and the last answer of each, ready for samples().

    Prompts with answers at several steps come first; MOST_SAMPLES at most.
    """
    by_prompt: dict[str, list[dict]] = {}
    for row in rows:
        by_prompt.setdefault(row["prompt"], []).append(row)
    groups = sorted(by_prompt.items(), key=lambda item: item[1][0]["step"] == item[1][-1]["step"])
    return [(prompt, [_answer(row) for row in _ends(answers)]) for prompt, answers in groups[:MOST_SAMPLES]]


def _ends(answers: list[dict]) -> list[dict]:
    first, last = answers[0], answers[-1]
    return [first] if first["step"] == last["step"] else [first, last]


def _answer(row: dict) -> Answer:
    marks = [f"{name} {row[name]:+.2f}" for name in ("score", "kl", "total") if row.get(name) is not None]
    said = said_lines(row) if row.get("messages") else row["completion"]
    return f"step {row['step']}", said, " · ".join([*marks, *episode_marks(row)])


def _numbers(folder: Path, stage: str, rows: list[dict]) -> list[str]:
    numbers, history = [], History(rows)
    for label, name in VIEWS[stage].key_numbers.items():
        late = lately(history, name)
        if late is None:
            continue
        ends = None if name.startswith(("time/", "tokens")) else early_and_late(history, name)
        note = f"{told(name, ends[0])} at the start" if ends else ""
        if name == "eval/rewards/accuracies" and (folder / RM_EVAL_FILE).exists():
            note = _interval(folder / RM_EVAL_FILE)
        numbers.append((label, told(name, late), note))
    note = f"{rows[-1]['step']} steps; means over the last {window(len(rows))} logged." if rows else ""
    return [blocks.section("Key numbers", blocks.key_number_block(numbers), note=note)] if numbers else []


def _interval(path: Path) -> str:
    found = json.loads(path.read_text(encoding="utf-8"))
    low, high = found["ci95"]
    return f"95% interval {low:.1%} to {high:.1%}, {found['n']:,} pairs"


def _verdicts(found: list[Verdict]) -> list[str]:
    note = "What the numbers say, and what to do where they say something is wrong."
    return [blocks.section("Verdicts", blocks.verdict_list(found), note=note)] if found else []


def _examination(examined: dict) -> list[str]:
    section = verdict_section(examined) if examined else ""
    return [section] if section else []


def _charts(folder: Path, stage: str) -> list[str]:
    drawn = [blocks.chart(each) for each in charts(folder, stage)]
    note = "Green is the healthy range; the faint line is every step, the strong one a running mean."
    return [blocks.section("Curves", blocks.grid(*drawn), note=note)] if drawn else []


def _samples(rows: list[dict]) -> list[str]:
    items = before_and_after(rows)
    note = "The same prompt early and late in training, where it was sampled more than once."
    return [blocks.section("Samples", blocks.samples(items), note=note)] if items else []


def _rollouts(folder: Path, rows: list[dict]) -> list[str]:
    """What stands out among the completions that the last steps kept: a bounded number of bounded texts."""
    since = rows[-RECENT]["step"] if len(rows) >= RECENT else 0
    recent_rows, folds = [row for row in stored_rows(folder / ROLLOUTS_FILE) if row["step"] >= since], []
    for order, title in STANDING_OUT.items():
        found = pick(recent_rows, order, MOST_ROLLOUTS)
        items = [
            (
                shortened(rollout_prompt(row)),
                [(f"step {row['step']}", shortened_lines(row), completion_remarks(row))],
            )
            for row in found
        ]
        folds += [blocks.fold(title, blocks.samples(items))] if items else []
    note = f"From the last {RECENT} steps; all that was kept is in {ROLLOUTS_FILE}: easyrlhf rollouts {folder.name}"
    return [blocks.section("Rollouts", *folds, note=note)] if folds else []


def completion_remarks(row: dict) -> str:
    """The numbers of a kept completion, and what reward functions have logged of it."""
    return " · ".join([row_marks(row), *map(shortened, extras(row))])


def shortened_lines(row: dict) -> list[TranscriptLine]:
    """What a kept completion says, each line bounded, and of many lines the first and the last."""
    lines = [line._replace(text=shortened(line.text)) for line in said_lines(row)]
    left_out, half = len(lines) - MOST_LINES, MOST_LINES // 2
    if left_out <= 0:
        return lines
    return [*lines[:half], TranscriptLine("", f"[…{left_out} lines…]", "thought"), *lines[-half:]]


def shortened(text: str) -> str:
    """A text with its middle left out where it is long."""
    left_out, half = len(text) - MOST_CHARACTERS, MOST_CHARACTERS // 2
    return f"{text[:half]} […{left_out:,} characters…] {text[-half:]}" if left_out > 0 else text


def _background(settings: dict, info: RunInfo) -> list[str]:
    sections = []
    if facts(info):
        sections.append(blocks.section("The run", blocks.html_table((), facts(info))))
    for name, summary in info.get("data", {}).items():
        sections.append(blocks.section(f"Data: {name}", blocks.line_list(data_lines(summary))))
    rows = [(name, "" if value is None else str(value)) for name, value in settings.items()]
    folds = [blocks.fold(f"{len(rows)} settings", blocks.html_table(("setting", "value"), rows))]
    if versions(info):
        folds.append(blocks.fold("Library versions", blocks.html_table((), versions(info).items())))
    return [*sections, blocks.section("Settings and versions", *folds)]

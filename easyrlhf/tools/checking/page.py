"""What `easyrlhf data check` says of its findings: lines for the console, and a page with pictures."""

import importlib.metadata
from array import array
from pathlib import Path

import numpy as np

from easyrlhf.config import CheckConfig
from easyrlhf.data.ledger import unused_key_lines
from easyrlhf.errors import InputError
from easyrlhf.files import write_whole
from easyrlhf.report import blocks
from easyrlhf.report.charts import MUTED, SERIES, Chart
from easyrlhf.report.console import one_line
from easyrlhf.report.text_table import aligned_columns
from easyrlhf.report.verdict import Verdict, worst
from easyrlhf.tools.checking.row_findings import RowFinding, quantiles
from easyrlhf.tools.checking.rows import Split
from easyrlhf.tools.checking.table import CHECKS, MILDER

SHARES = (0.5, 0.9, 0.99, 1.0)
LENGTH_HEAD = ("", "half", "90 %", "99 %", "longest")
LIMITS = (256, 512, 1024, 2048, 4096, 8192)
LIMIT_HEAD = ("limit", "longer in all", "share", "longer prompt", "share")
FILE_HEAD = ("file", "format", "rows", "dropped for content")
BARS, BAR_WIDTH = 12, 32
LONGEST_LINE = 300  # characters of an example
COLOURS = {"error": "alarm", "warning": "warn", "note": "ok"}


def console_lines(config: CheckConfig, splits: list[Split], found: list[RowFinding]) -> list[str]:
    """The whole check as lines: each data set, then the findings, then the outcome."""
    lines = [line for split in splits for line in split_lines(config, split)]
    for one in found:
        lines.append(f"{one.severity}: {one.message}")
        lines += [f"    {short_place(place)}" for place in one.places]
        lines += [f"    → {one.remedy}"] if one.severity != "note" else []
    return [*lines, "", check_outcome(found)]


def split_lines(config: CheckConfig, split: Split) -> list[str]:
    """Counts, files, lengths, and what limits would drop."""
    lines = [balance_line(split)]
    lines += aligned_columns(FILE_HEAD, file_rows(split))
    if split.usable:
        lines += ["", f"  lengths in {unit(config)}", *aligned_columns(LENGTH_HEAD, length_rows(split)), ""]
        lines += text_histogram(split.lengths.total)
        if config.model:
            lines += ["", *aligned_columns(LIMIT_HEAD, limit_rows(config, split))]
    return [*lines, "", *note_lines(split)]


def balance_line(split: Split) -> str:
    """`train: 10 rows read = 8 usable + 2 dropped (…)`."""
    dropped = split.ledger.dropped
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common())
    balance = f"{split.read:,} rows read = {split.usable:,} usable + {dropped.total():,} dropped"
    return f"{split.name}: {balance}{f' ({reasons})' if reasons else ''}"


def note_lines(split: Split) -> list[str]:
    """What is neither right nor wrong: different prompts, what the reader did to rows."""
    lines = [f"{split.name}: {len(np.unique(np.asarray(split.prompts))):,} different prompts"] if split.usable else []
    lines += [f"{split.name}: {count:,} {note}" for note, count in split.ledger.notes.items() if count]
    return lines + [f"{split.name}: {line}" for line in unused_key_lines(split.ledger.unused)]


def unit(config: CheckConfig) -> str:
    """What lengths are measured in."""
    return "tokens" if config.model else "characters; --model DIR counts tokens"


def file_rows(split: Split) -> list[tuple[str, ...]]:
    """A row for each file."""
    return [
        (file.name, file.format or "not recognised", f"{file.read:,}", f"{file.faults.total():,}")
        for file in split.files
    ]


def length_rows(split: Split) -> list[tuple[str, ...]]:
    """Percentiles of prompts, answers and whole rows."""
    measured = {"prompt": split.lengths.prompt, "longest answer": split.lengths.answer, "in all": split.lengths.total}
    if split.kind == "prompt":
        measured = {"prompt": split.lengths.prompt}
    return [(name, *(f"{n:,}" for n in quantiles(np.asarray(values), *SHARES))) for name, values in measured.items()]


def limit_rows(config: CheckConfig, split: Split) -> list[tuple[str, ...]]:
    """What --max_length and --max_prompt_length would drop, each alone, at several limits up to one that drops none."""
    totals, prompts = np.asarray(split.lengths.total), np.asarray(split.lengths.prompt)
    limits, rows = sorted({*LIMITS, config.max_length, config.max_prompt_length}), []
    enough = next((limit for limit in limits if limit >= totals.max()), limits[-1])
    for limit in limits[: limits.index(enough) + 1]:
        longer = int((totals > limit).sum()), int((prompts > limit).sum())
        cells = [cell for count in longer for cell in (f"{count:,}", f"{100 * count / split.usable:.1f} %")]
        rows.append((f"{limit:,}", *cells))
    return rows


def histogram(values: array) -> tuple[list[int], list[int]]:
    """Counts [n] and edges [n + 1] of at most BARS equal ranges up to the 99th percentile; the last has the rest."""
    numbers = np.asarray(values)
    top = max(quantiles(numbers, 0.99)[0], 1)
    step = -(-top // BARS)
    edges = list(range(0, top + step + 1, step))
    counts, _ = np.histogram(np.minimum(numbers, edges[-1]), edges)
    return counts.tolist(), edges


def text_histogram(values: array) -> list[str]:
    """One line a range."""
    counts, edges = histogram(values)
    ends = [f"{high - 1:,}" for high in edges[1:-1]] + ["more"]
    wide = max(len(f"{edges[-1]:,}"), 4)
    most = max(counts)
    return [
        f"  {low:>{wide},} … {end:>{wide}}  {'█' * round(BAR_WIDTH * count / most):<{BAR_WIDTH}} {count:,}"
        for low, end, count in zip(edges, ends, counts, strict=False)
    ]


def short_place(place: str) -> str:
    """A place and the first line of what was found there: printable, and not too long."""
    line = one_line(place.partition("\n")[0])
    return line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…"


def check_outcome(found: list[RowFinding]) -> str:
    """The check in one sentence."""
    counts = {name: sum(one.severity == name for one in found) for name in MILDER}
    said = [f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items() if count]
    return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said) or "Nothing was found."


def write_check_page(config: CheckConfig, splits: list[Split], found: list[RowFinding]) -> Path:
    """Write the page to `config.report`, one file that needs no other; returns its path. Raises InputError."""
    verdicts = [finding_text(one) for one in found if one.severity != "note"]
    fine = [name for name in CHECKS if name not in {one.check for one in found}]
    verdicts += [Verdict("ok", name, None, "", f"None: {CHECKS[name].says.strip()}.", "") for name in fine]
    notes = [one.message for one in found if one.severity == "note"]
    notes += [line for split in splits for line in note_lines(split)]
    sections = [blocks.section("Findings", blocks.verdict_list(verdicts))]
    sections += [blocks.section("Notes", blocks.line_list(notes))] if notes else []
    sections += [part for split in splits for part in split_sections(config, split)]
    page = blocks.html_page(
        f"Check of {config.train_data} for {config.stage}",
        sections,
        lead=check_outcome(found),
        severity=worst(verdicts),
        over="easyrlhf · data check",
        foot=f"Written by easyrlhf {importlib.metadata.version('easyrlhf')}",
    )
    path = Path(config.report)
    try:
        write_whole(path, page)
        return path
    except OSError as error:
        raise InputError(f"--report {path}: cannot be written ({error.strerror})") from error


def finding_text(finding: RowFinding) -> Verdict:
    """A finding as the page shows it."""
    check = CHECKS[finding.check]
    places = f" First: {'; '.join(map(short_place, finding.places))}." if finding.places else ""
    return Verdict(
        COLOURS[finding.severity],
        finding.check,
        finding.share,
        f"at most {100 * check.threshold:g} %" if finding.total else "not so",
        f"{finding.message}.{places}",
        check.remedy,
    )


def split_sections(config: CheckConfig, split: Split) -> list[str]:
    """The numbers of one data set."""
    parts = [blocks.html_table(FILE_HEAD, file_rows(split))]
    if split.usable:
        parts += [blocks.grid(*(blocks.chart(one) for one in length_charts(config, split)))]
        parts += [blocks.html_table((f"lengths in {unit(config)}", *LENGTH_HEAD[1:]), length_rows(split))]
        if config.model:
            parts += [blocks.html_table(LIMIT_HEAD, limit_rows(config, split))]
    return [blocks.section(f"Data: {split.name}", *parts, note=balance_line(split))]


def length_charts(config: CheckConfig, split: Split) -> list[Chart]:
    """Histograms of whole rows and of prompts, with the limits."""
    word = "tokens" if config.model else "characters"
    shown = [("prompt", "Prompts", split.lengths.prompt, config.max_prompt_length)]
    if split.kind != "prompt":
        shown.insert(0, ("total", "Prompt and answer", split.lengths.total, config.max_length))
    caption = f"Rows by {word}; the last bar holds all that are longer."
    limits = " The dashed line is the limit; it is not drawn where all are shorter." if config.model else ""
    return [
        Chart(
            f"{split.name}_{name}",
            title,
            caption + limits,
            lambda axes, values=values, limit=limit: draw_lengths(axes, values, limit if config.model else None, word),
        )
        for name, title, values, limit in shown
    ]


def draw_lengths(axes, values: array, limit: int | None, word: str) -> None:
    """Bars, and the limit where it lies among them."""
    counts, edges = histogram(values)
    axes.stairs(counts, edges, fill=True, color=SERIES[0], alpha=0.75)
    if limit is not None and limit <= edges[-1]:
        axes.axvline(limit, color=MUTED, linestyle="--")
    axes.set_xlabel(word)
    axes.set_ylabel("rows")
    axes.set_xlim(0, edges[-1])

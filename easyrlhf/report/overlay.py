"""Several runs on one page: their numbers side by side, their curves over one another, the settings that differ."""

from dataclasses import dataclass, field
from itertools import cycle, product
from pathlib import Path

from easyrlhf.report import blocks
from easyrlhf.report.charts import SERIES, Chart, band, curve
from easyrlhf.report.conclusion import all_concluded, concluded
from easyrlhf.report.detectors import History, lately
from easyrlhf.report.info import STAGE_TITLES
from easyrlhf.report.metrics import ONLINE, metric, told
from easyrlhf.report.plots import points
from easyrlhf.report.stage_view import VIEWS

LINES = ("-", "--", ":")


@dataclass(frozen=True)
class RunRecord:
    """What a run's folder says: its label on the page, stage, resolved settings, logged rows and, of a reward model,
    its examination."""

    label: str
    stage: str
    settings: dict
    rows: list[dict]
    examined: dict = field(default_factory=dict)


def write_overlay(path: Path, runs: list[RunRecord]) -> Path:
    """Write a page that compares runs, of one stage or of several; returns its path."""
    stages = list(dict.fromkeys(run.stage for run in runs))
    conclusions = {run.label: concluded(run.stage, run.rows, run.examined) for run in runs}
    whole = all_concluded(conclusions)
    drawn = [blocks.chart(chart) for chart in overlaid(runs, stages)]
    sections = [
        blocks.section("Key numbers", key_table(runs, stages), note="Means over the last steps logged."),
        blocks.section(
            "In a sentence", blocks.html_table((), [(label, one.sentence) for label, one in conclusions.items()])
        ),
        *([blocks.section("Curves", blocks.grid(*drawn))] if drawn else []),
        *_differences(runs),
    ]
    page = blocks.html_page(
        f"{len(runs)} runs: {', '.join(STAGE_TITLES[stage] for stage in stages)}",
        sections,
        lead=whole.sentence,
        severity=whole.severity,
        over="easyrlhf · runs compared",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")
    return path


def key_table(runs: list[RunRecord], stages: list[str]) -> str:
    """A row for each key number of the stages, a column for each run."""
    names = {name: label for stage in stages for label, name in VIEWS[stage].key_numbers.items()}
    histories = [History(run.rows) for run in runs]
    rows = [(label, *(_shown(history, name) for history in histories)) for name, label in names.items()]
    return blocks.html_table(("", *(run.label for run in runs)), [row for row in rows if any(row[1:])])


def _shown(history: History, name: str) -> str:
    value = lately(history, name)
    return "" if value is None else told(name, value)


def overlaid(runs: list[RunRecord], stages: list[str]) -> list[Chart]:
    """A chart for every curve of the stages that a run has points of; each run keeps its colour throughout."""
    styles = {run.label: style for run, style in zip(runs, cycle(product(LINES, SERIES)), strict=False)}
    charts = [_reward_kl(runs, styles)] if set(stages) <= set(ONLINE) else []
    seen = set()
    for stage in stages:
        for name, title, lines, caption in VIEWS[stage].curves:
            for label, metric_name in lines.items():
                found = {run.label: points(run.rows, metric_name) for run in runs}
                found = {run: series for run, series in found.items() if series[0]}
                if found and metric_name not in seen:
                    seen.add(metric_name)
                    whole = f"{title}, {label}" if label else title
                    charts.append(Chart(f"{name}_{label}", whole, caption, _drawer(found, styles, metric_name)))
    return charts


def _drawer(found: dict[str, tuple[list, list]], styles: dict[str, tuple[str, str]], name: str):
    def draw(axes) -> None:
        for label, (steps, series) in found.items():
            line, colour = styles[label]
            curve(axes, steps, series, label, colour, dots=name.startswith("eval/"))
            axes.lines[-1].set_linestyle(line)
        band(axes, metric(name).low, metric(name).high)
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()

    return draw


def _reward_kl(runs: list[RunRecord], styles: dict[str, tuple[str, str]]) -> Chart:
    def draw(axes) -> None:
        for run in runs:
            rows = [row for row in run.rows if None not in (row.get("objective/kl"), row.get("objective/scores"))]
            line, colour = styles[run.label]
            both = [row["objective/kl"] for row in rows], [row["objective/scores"] for row in rows]
            axes.plot(*both, line, color=colour, label=run.label, marker=".", markersize=4, linewidth=1)
        axes.set_xlabel("KL to the reference, nats an answer")
        axes.set_ylabel("score")
        axes.legend()

    caption = "What each nat of KL bought: the higher curve is the better bargain, where the scores are of one judge."
    return Chart("reward_kl", "Reward against KL", caption, draw)


def _differences(runs: list[RunRecord]) -> list[str]:
    """The settings in which the runs differ, as a table."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    rows = [(name, *("" if (v := run.settings.get(name)) is None else str(v) for run in runs)) for name in names]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    table = blocks.html_table(("setting", *(run.label for run in runs)), rows)
    return [blocks.section("Settings that differ", table)] if rows else []

"""docs/metrics.md, written from the vocabulary and the diagnostics table."""

from pathlib import Path

from easyrlhf.report.diagnostics import CHECKS, words_of
from easyrlhf.report.metrics import ALIGN, METRICS, ONLINE, ranked
from easyrlhf.report.text_table import markdown_table
from easyrlhf.stage_table import STAGES

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
HEAD = """\
# Metrics and diagnostics

[All pages](README.md)

Every stage writes one JSON object a step to `metrics.jsonl` in its output folder, and the same
numbers to TensorBoard (`tensorboard --logdir outputs`) or other trackers (`--report_to`, see [hub.md](hub.md)).
Numbers keep every digit. A value that was NaN or infinite is written as `null`. Evaluation rows
are merged into the row of the step after which they were measured.

This page is generated: `python scripts/metrics_page.py`.
"""
TITLES = {stage: STAGES[stage].title for stage in ("sft", "rm", *ONLINE, *ALIGN)} | {"sft": "SFT"}


def markdown() -> str:
    """The whole page."""
    parts = [HEAD, "## Diagnostics\n", CHECKS_INTRO, _checks()]
    for stage, title in TITLES.items():
        parts += [f"## {title}\n", _metrics(stage), _ranked(stage)]
    return "\n".join(parts)


CHECKS_INTRO = """\
After every step each of these checks looks at the run's numbers so far, those of earlier sittings included. When one
turns worse than it has been in this run (ok to warning, warning to alarm), the console says so at once: the number,
what it means, and what to do. At the end `report.html` gives a verdict for each check that the numbers can answer.
"Recent" is the mean of the last 10 logged values, 3 at least; "at the end" marks a check that judges the result and
does not speak before.

`--stop_on_alarm` turns a check's first alarm into a clean stop: a checkpoint, status `stopped`, exit code 3. A check
stops a run once: the same command goes on past its alarm, and with `--no_stop_on_alarm` past every other.
`--keep_best METRIC` leaves the weights of the evaluation where a metric was best; below each stage's table are the
metrics it can go by.
"""


def _checks() -> str:
    head = ("Check", "Stages", "Metric", "Fires", "What it means", "What to do")
    words = words_of("")
    rows = [
        (c.name, ", ".join(c.stages), f"`{c.metric}`", c.fires, c.means.format(**words), c.remedy.format(**words))
        for c in CHECKS
    ]
    return markdown_table(head, rows)


def _metrics(stage: str) -> str:
    rows = [(f"`{name}`", entry.meaning, entry.healthy) for name, entry in METRICS.items() if stage in entry.stages]
    return markdown_table(("Metric", "Meaning", "Healthy"), rows)


def _ranked(stage: str) -> str:
    return f"`--keep_best` can go by {', '.join(f'`{name}`' for name in ranked(stage))}.\n"


def main() -> None:
    """Write docs/metrics.md."""
    PAGE.write_text(markdown(), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()

"""The charts of a stage: which there are, and how each reads metrics.jsonl, rm_eval.json and doctor.json."""

import json
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from easyrlhf.report.charts import INK, MUTED, SERIES, Chart, band, curve, interval_bars
from easyrlhf.report.log import METRICS_FILE, read_rows
from easyrlhf.report.metrics import ONLINE, metric
from easyrlhf.report.stage_view import VIEWS

RM_EVAL_FILE, DOCTOR_FILE = "rm_eval.json", "doctor.json"


def charts(folder: Path, stage: str) -> list[Chart]:
    """Every chart that the folder's numbers can fill, the most telling first."""
    history = read_rows(folder / METRICS_FILE)
    special = _online_charts(history) if stage in ONLINE else _rm_charts(folder) if stage == "rm" else []
    return [*special, *_curves(history, stage)]


def plot_run(folder: Path, stage: str) -> list[Path]:
    """Write folder/plots/*.png; returns their paths."""
    folder = Path(folder)
    return [chart.png(folder / "plots" / f"{chart.name}.png") for chart in charts(folder, stage)]


def _curves(history: list[dict], stage: str) -> Iterator[Chart]:
    for name, title, lines, caption in VIEWS[stage].curves:
        found = {label: points(history, metric_name) for label, metric_name in lines.items()}
        found = {label: series for label, series in found.items() if series[0]}
        if found:
            yield Chart(name, title, caption, _curve_drawer(found, lines))


def points(history: list[dict], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric, where it is finite."""
    rows = [row for row in history if row.get(name) is not None]
    return [row["step"] for row in rows], [row[name] for row in rows]


def _curve_drawer(found: dict[str, tuple[list, list]], lines: dict[str, str]):
    def draw(axes) -> None:
        for colour, (label, (steps, series)) in zip(SERIES, found.items(), strict=False):
            curve(axes, steps, series, label, colour, dots=lines[label].startswith("eval/"))
        first = metric(next(iter(lines.values())))
        band(axes, first.low, first.high)
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(found) > 1:
            axes.legend()

    return draw


def _online_charts(history: list[dict]) -> list[Chart]:
    rows = [row for row in history if row.get("objective/kl") is not None and row.get("objective/scores") is not None]
    if not rows:
        return []

    def draw(axes) -> None:
        kl, score = [r["objective/kl"] for r in rows], [r["objective/scores"] for r in rows]
        axes.plot(kl, score, color=MUTED, alpha=0.35, linewidth=0.8, zorder=1)
        dots = axes.scatter(kl, score, c=[r["step"] for r in rows], cmap="plasma", s=22, zorder=2)
        axes.set_xlabel("KL to the reference, nats an answer")
        axes.set_ylabel("score")
        bar = axes.figure.colorbar(dots, ax=axes, pad=0.02, aspect=30)
        bar.set_label("step", color=MUTED)
        bar.outline.set_visible(False)

    caption = "What each nat of KL bought. Flattening means the reward model has little more to give."
    return [Chart("reward_kl", "Reward against KL", caption, draw), *_source_charts(rows)]


def _source_charts(rows: list[dict]) -> list[Chart]:
    """Every reward source against KL, where there are several: one may rise while another falls."""
    names = [name for name in rows[-1] if name.startswith("reward/") and name.endswith("/mean")]
    if len(names) < 2:
        return []

    def draw(axes) -> None:
        for colour, name in zip(cycle(SERIES), names, strict=False):
            shown = [row for row in rows if row.get(name) is not None]
            points = [row["objective/kl"] for row in shown], [row[name] for row in shown]
            axes.plot(*points, color=colour, alpha=0.35, linewidth=0.8)
            axes.scatter(*points, color=colour, s=14, label=name.split("/", 1)[1].removesuffix("/mean"))
        axes.set_xlabel("KL to the reference, nats an answer")
        axes.set_ylabel("mean of the source, unweighted")
        axes.legend(frameon=False)

    caption = "Each source by itself. One that falls while the score rises is being sacrificed: over-optimisation."
    return [Chart("sources_kl", "Reward sources against KL", caption, draw)]


def _rm_charts(folder: Path) -> list[Chart]:
    found = examination_of(folder)
    return examination_charts(found) if found else []


def examination_of(folder: Path) -> dict:
    """The examination of a reward model's folder: whole, or what the last evaluation measured; {} without either."""
    for name in (DOCTOR_FILE, RM_EVAL_FILE):
        if (folder / name).exists():
            return json.loads((folder / name).read_text(encoding="utf-8"))
    return {}


def examination_charts(found: dict) -> list[Chart]:
    """Pictures of a reward model's examination; that of the probes only where there were any."""
    charts = [
        Chart(
            "scores",
            "Held-out scores",
            "The further apart the two hills, the surer the model.",
            lambda axes: _draw_histograms(axes, found),
        ),
        Chart(
            "length_gap",
            "Accuracy by length gap",
            "Chosen minus rejected tokens. High on the right and low on the left: it counts words.",
            lambda axes: _draw_length_gap(axes, found["by_length_gap"]),
        ),
        Chart(
            "calibration",
            "Calibration",
            "Below the diagonal the model is surer than it should be. Dots grow with their pairs.",
            lambda axes: _draw_calibration(axes, found["calibration"]),
        ),
    ]
    if "ceiling" in found:
        charts.insert(0, _ceiling_chart(found))
    if "probes" in found:
        caption = "Mean scores of answers that no reader would prefer. Right of the chosen ones: PPO will find them."
        charts.append(Chart("probes", "Probes", caption, lambda axes: _draw_probes(axes, found["probes"])))
    return charts


def _ceiling_chart(found: dict) -> Chart:
    top = found["ceiling"]
    caption = "The ceiling is the accuracy of one label, by how far labels agree. Dashed: a coin."
    bars = [("accuracy", found["accuracy"], *found["ci95"]), ("ceiling", top["accuracy"], *top["ci95"])]
    return interval_bars("ceiling", "Accuracy and its ceiling", bars, caption, even=0.5, shown="{:.1%}".format)


def _draw_histograms(axes, found: dict) -> None:
    for side, colour in (("chosen", SERIES[0]), ("rejected", SERIES[1])):
        histogram = found[f"{side}_histogram"]
        edges, counts = histogram["edges"], histogram["counts"]
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.45, label=side)
        axes.stairs(counts, edges, color=colour)
    axes.set_xlabel("score")
    axes.set_ylabel("answers")
    axes.legend()


def _draw_length_gap(axes, ranges: list[dict]) -> None:
    names = [f"{r['low']}" if r["low"] == r["high"] else f"{r['low']:+d} to\n{r['high']:+d}" for r in ranges]
    bars = axes.bar(range(len(ranges)), [r["accuracy"] for r in ranges], 0.66, color=SERIES[0])
    axes.bar_label(bars, [f"{r['accuracy']:.0%}\nn {r['n']}" for r in ranges], fontsize=10, color=INK)
    axes.axhline(0.5, color=MUTED, linewidth=1, linestyle="--")
    axes.set_xticks(range(len(ranges)), names)
    axes.set_xlabel("chosen − rejected, tokens")
    axes.set_ylim(0, 1.25)
    axes.set_yticks([0, 0.5, 1], ["0%", "50%", "100%"])
    axes.grid(axis="x", visible=False)


def _draw_calibration(axes, bins: list[dict]) -> None:
    axes.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=1, linestyle="--")
    total = sum(b["n"] for b in bins)
    axes.plot([b["predicted"] for b in bins], [b["observed"] for b in bins], color=SERIES[0], linewidth=1)
    axes.scatter(
        [b["predicted"] for b in bins],
        [b["observed"] for b in bins],
        s=[20 + 220 * b["n"] / total for b in bins],
        color=SERIES[0],
        zorder=3,
    )
    axes.set_xlabel("how sure it is")
    axes.set_ylabel("how often it is right")
    axes.set_ylim(top=1.05)


def _draw_probes(axes, found: dict) -> None:
    answers = found["answers"]
    scores = [found["chosen"], found["rejected"], *(answer["score"] for answer in answers)]
    base = min(scores) - 0.08 * (max(scores) - min(scores))
    axes.barh(range(len(answers)), [a["score"] - base for a in answers], 0.6, left=base, color=SERIES[4], alpha=0.75)
    for side, colour in (("chosen", SERIES[0]), ("rejected", SERIES[1])):
        axes.axvline(found[side], color=colour, label=f"{side} answers")
    axes.set_yticks(range(len(answers)), [answer["name"] for answer in answers])
    axes.invert_yaxis()
    axes.set_xlabel("mean score")
    axes.grid(axis="y", visible=False)
    axes.set_xlim(left=base)
    axes.figure.legend(loc="outside lower center", ncols=2)

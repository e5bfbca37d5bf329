"""How a chart is drawn: one look for all, by matplotlib, as PNG or as SVG in the page's colours."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

INK, MUTED, RULE, BAND = "#1f2430", "#6b7280", "#e3e6eb", "#e6f4ea"
SERIES = ("#2f6fde", "#e2711d", "#2a9d6f", "#9b5de5", "#d6457a")
# In a page the same colours are CSS variables, so that charts turn dark with it.
THEME = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    BAND: "var(--band)",
    **{colour: f"var(--series-{i})" for i, colour in enumerate(SERIES)},
}
STYLE = {
    "font.size": 10,  # a chart is as wide as a page of 400 px: its points are about as large as pixels
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "easyrlhf",
    "figure.constrained_layout.use": True,
}
SIZE = (4.4, 2.7)
LABEL_ROOM = 0.22  # beyond the longest bar, as a share of the axis
SMOOTHED_FROM = 40  # points; shorter curves are shown as they are
MOST_POINTS = 500


@dataclass(frozen=True)
class Chart:
    """A figure that is yet to be drawn.

    name     file name without its ending
    title    printed above the axes
    caption  one sentence on how to read it
    draw     puts the data on a matplotlib Axes
    size     inches
    """

    name: str
    title: str
    caption: str
    draw: Callable
    size: tuple[float, float] = SIZE

    def png(self, path: Path) -> Path:
        """Write the chart on white; returns `path`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with _style():
            self._figure().savefig(path, dpi=160, facecolor="white")
        return path

    def svg(self) -> str:
        """The chart as inline SVG: no background, text as text, colours as CSS variables."""
        out = io.StringIO()
        with _style():
            metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
            self._figure().savefig(out, format="svg", transparent=True, metadata=metadata)
        return themed(out.getvalue(), self.title)

    def _figure(self):
        from matplotlib.figure import Figure

        figure = Figure(figsize=self.size)
        axes = figure.add_subplot()
        axes.set_title(self.title)
        self.draw(axes)
        return figure


def themed(svg: str, title: str) -> str:
    """A matplotlib SVG made fit for a page: the <svg> element alone, themed, scaling, named."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", svg)
    view = re.search(r'viewBox="[^"]+"', svg)[0]
    head = f'<svg role="img" aria-label="{escape(title, quote=True)}" {view}>'
    svg = head + svg[svg.index(">") + 1 :]
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", svg)
    for colour, variable in THEME.items():
        svg = svg.replace(colour, variable)
    return svg.strip()


def curve(axes, steps: list, series: list[float], label: str, colour: str, dots: bool = False):
    """One line; a long one is thinned out and smoothed, with the raw points faint behind it."""
    if dots:
        axes.plot(steps, series, color=colour, label=label, marker="o", markersize=4)
        return
    steps, series = thinned(steps, series)
    if len(series) < SMOOTHED_FROM:
        axes.plot(steps, series, color=colour, label=label, marker="." if len(series) < 2 else "")
        return
    axes.plot(steps, series, color=colour, alpha=0.25, linewidth=1)
    axes.plot(steps, smoothed(series), color=colour, label=label)


def band(axes, low: float | None, high: float | None) -> None:
    """Shade the healthy range, as far as the axes already reach; their limits do not move."""
    if low is None and high is None:
        return
    bottom, top = axes.get_ylim()
    start = bottom if low is None else max(bottom, low)
    end = top if high is None else min(top, high)
    if start < end:
        axes.axhspan(start, end, color=BAND, zorder=0, linewidth=0)
    axes.set_ylim(bottom, top)


def smoothed(series: list[float]) -> list[float]:
    """Running mean over a twentieth of the points, centred, shorter at both ends."""
    reach = max(1, len(series) // 40)
    windows = (series[max(0, i - reach) : i + reach + 1] for i in range(len(series)))
    return [sum(window) / len(window) for window in windows]


def thinned(steps: list, series: list[float]) -> tuple[list, list[float]]:
    """At most MOST_POINTS points: means over equal stretches of steps."""
    stretch = -(-len(series) // MOST_POINTS)
    if stretch <= 1:
        return steps, series
    starts = range(0, len(series), stretch)
    means = [sum(part) / len(part) for part in (series[i : i + stretch] for i in starts)]
    return [steps[i] for i in starts], means


def interval_bars(
    name: str,
    title: str,
    bars: list[tuple[str, float, float, float]],
    caption: str = "",
    *,
    even: float | None = None,
    shown: Callable[[float], str] = "{:.2f}".format,
) -> Chart:
    """Horizontal bars with their intervals, the first on top.

    bars   (label, mean, low, high), low and high the ends of the 95 % interval
    even   where a dashed line marks no difference
    shown  mean → its label, which stands beyond the interval, on the side away from 0
    """

    def draw(axes) -> None:
        for i, (_, mean, low, high) in enumerate(bars):
            axes.barh(i, mean, height=0.56, color=SERIES[i % len(SERIES)])
            axes.errorbar(mean, i, xerr=[[mean - low], [high - mean]], color=INK, capsize=4)
            end, away, align = (low, -8, "right") if mean < 0 else (high, 8, "left")
            how = {"textcoords": "offset points", "va": "center", "ha": align, "color": INK}
            axes.annotate(shown(mean), (end, i), (away, 0), **how)
        if even is not None:
            axes.axvline(even, color=MUTED, linewidth=1, linestyle="--", zorder=3)
        axes.set_yticks(range(len(bars)), [label for label, *_ in bars])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.invert_yaxis()
        axes.set_xlim(*reach([end for _, *ends in bars for end in ends]))
        axes.grid(axis="y", visible=False)

    return Chart(name, title, caption, draw, (SIZE[0], 0.9 + 0.5 * len(bars)))


def reach(ends: list[float]) -> tuple[float, float]:
    """The axis of bars that start at 0: as far as their ends, with room for a label where there are any beyond 0."""
    low, high = min(0.0, *ends), max(0.0, *ends)
    room = LABEL_ROOM * ((high - low) or 1.0)
    return low - room * (low < 0), high + room * (high > 0 or low == 0)


def _style():
    from matplotlib import rc_context

    return rc_context(STYLE)

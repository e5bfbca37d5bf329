"""What a measure found, and the table of all that was found. Loads no torch."""

from collections.abc import Iterable
from dataclasses import dataclass


def line(cells: list[str]) -> str:
    """Cells as one line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


COLUMNS = "id what ratio ratio_of_CPU_time ours theirs threads dtype fill utilisation target met"
HEADER = line([name.replace("_", " ") for name in COLUMNS.split()])


@dataclass(frozen=True)
class Result:
    """One line of the table.

    ratio         ours over theirs, the median over pairs of neighbouring steps; None where there is no peer
    spread        smallest and largest ratio of a pair
    cpu_ratio     the same median by the CPU time of the process, which what else the machine does hardly moves
    ours, theirs  absolute figures, in `unit`
    fill          share of real tokens in what the peer computed
    threads       of the CPU; None on a GPU
    utilisation   of the matrix product's speed, measured in the same process
    memory        GiB of the GPU that a step takes beyond what is held between the steps, ours and theirs
    judged        the number that the target is about: ratio, ours or utilisation
    at_most       whether the target is an upper limit
    note          what a reader must know besides, such as the mean length of the answers
    """

    what: str
    unit: str
    ours: float
    target: float
    theirs: float | None = None
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    cpu_ratio: float | None = None
    threads: int | None = 1
    dtype: str = "float32"
    fill: float | None = None
    utilisation: float | None = None
    memory: tuple[float, float] | None = None
    judged: str = "ratio"
    at_most: bool = False
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        value = getattr(self, self.judged)
        return value <= self.target if self.at_most else value >= self.target


def best_of(results: Iterable[Result]) -> Result:
    """The result against the peer's best settings."""
    return min(results, key=lambda result: result.ratio)


def cells(name: str, result: Result) -> list[str]:
    """A result as cells, in the order of the header."""
    ratio = "" if result.ratio is None else f"{result.ratio:.2f} ×"
    if result.spread:
        ratio += f" ({result.spread[0]:.2f} to {result.spread[1]:.2f})"
    by_cpu = "" if result.cpu_ratio is None else f"{result.cpu_ratio:.2f} ×"
    figures = [f"{figure:,.4g} {result.unit}" if figure is not None else "" for figure in (result.ours, result.theirs)]
    unit = {"ratio": " ×", "utilisation": ""}.get(result.judged, f" {result.unit}")
    target = f"{'≤' if result.at_most else '≥'} {result.target:g}{unit}"
    shares = ["" if share is None else f"{share:.2f}" for share in (result.fill, result.utilisation)]
    what = result.what + (f"; {result.note}" if result.note else "")
    if result.memory:
        what += "; a step takes {:.2f} and {:.2f} GiB".format(*result.memory)
    threads = "" if result.threads is None else str(result.threads)
    met = "yes" if result.met else "NO"
    return [name, what, ratio, by_cpu, *figures, threads, result.dtype, *shares, target, met]

"""What every measure is told, and how two sides are compared before they are timed."""

from dataclasses import dataclass

import click
import torch

from speed.world import SIZES, Size

TOLERANCE = {"float32": 1e-4, "bf16": 2e-2}
DTYPES = {"float32": "float32", "bf16": "bfloat16"}  # precision as the settings name it → as torch does


@dataclass(frozen=True)
class Options:
    """How to measure.

    size     of the model, a name in world.SIZES
    pairs    of steps that count
    device   cpu or cuda
    lengths  of demonstrations and comparisons: skewed or flat
    """

    size: str = "m9"
    pairs: int = 5
    device: str = "cpu"
    lengths: str = "skewed"

    @property
    def shape(self) -> Size:
        """The model's shape."""
        return SIZES[self.size]

    @property
    def on_gpu(self) -> bool:
        """Whether both sides compute on a GPU."""
        return self.device == "cuda"

    @property
    def devices(self) -> str:
        """The device as our settings name it; the process sees no other GPU than the first."""
        return "0" if self.on_gpu else "cpu"

    @property
    def precision(self) -> str:
        """Of measures that are not about one: float32 on a CPU; bf16 on a GPU, where nobody trains in float32."""
        return "bf16" if self.on_gpu else "float32"

    @property
    def skewed(self) -> bool:
        """Whether demonstrations differ in length."""
        return self.lengths == "skewed"

    @property
    def spread(self) -> float:
        """How far a comparison's prompt and answers may be from their mean lengths, as a share of them."""
        return 0.3 if self.skewed else 0.0

    def rows_of_a_pass(self, best_on_cpu: int, batch: int) -> tuple[int, ...]:
        """How many rows of an optimiser's batch a peer is given at a time; the better of them counts.

        On a GPU the whole batch is tried too: it has the memory, and small passes leave it waiting for Python.
        """
        return (best_on_cpu, batch) if self.on_gpu else (best_on_cpu,)

    def how(self, precision: str) -> dict:
        """Fields of a Result that say how it was measured; a GPU's rows name no CPU threads."""
        return {"dtype": DTYPES[precision], "threads": None if self.on_gpu else torch.get_num_threads()}


def require_equal(name: str, ours: float, theirs: float, precision: str, lost: float = 1) -> None:
    """Raise unless two numbers agree as far as the precision allows.

    lost  how many times larger rounding is beside numbers that are differences of larger ones
    """
    if not abs(ours - theirs) <= lost * TOLERANCE[precision] * abs(theirs):
        raise click.ClickException(
            f"the two sides do not compute the same, so their speeds say nothing: {name} is {ours:.7g} here and "
            f"{theirs:.7g} there"
        )

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

    size   of the model: m9 (8.9 million parameters) or 60m
    pairs  of steps that count
    """

    size: str = "m9"
    pairs: int = 5

    @property
    def shape(self) -> Size:
        """The model's shape."""
        return SIZES[self.size]


def how(precision: str) -> dict:
    """Fields of a Result that say how it was measured."""
    return {"dtype": DTYPES[precision], "threads": torch.get_num_threads()}


def require_equal(name: str, ours: float, theirs: float, precision: str) -> None:
    """Raise unless two numbers agree as far as the precision allows."""
    if not abs(ours - theirs) <= TOLERANCE[precision] * abs(theirs):
        raise click.ClickException(
            f"the two sides do not compute the same, so their speeds say nothing: {name} is {ours:.7g} here and "
            f"{theirs:.7g} there"
        )

"""U1, U2: how much of the machine's matrix product a training step uses."""

import tempfile
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

from easyrlhf.config import SFTConfig
from speed import ours, world
from speed.measure import Options, how
from speed.results import Result
from speed.settings import LEARNING_RATE
from speed.turns import timed

ROWS, LENGTH, SIDE = 8, 256, 2048


def flops(size: world.Size, rows: int, length: int) -> float:
    """Floating-point operations of a forward and backward pass over rows of one length; no first token is learned.

    Forward: 2 for each weight of trunk and head a token goes through, and 2·H·S a layer for causal attention.
    """
    tokens, learned = rows * length, rows * (length - 1)
    trunk = 2 * size.trunk * tokens
    head = 2 * size.vocabulary * size.hidden * learned
    attention = 2 * size.layers * size.hidden * length * tokens
    return 3.0 * (trunk + head + attention)


def product_speed(dtype: torch.dtype) -> float:
    """Floating-point operations a second of a product of square matrices, the best of ten."""
    a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    laps = [timed(lambda: F.linear(a, b) is None or 2 * SIDE**3) for _ in range(10)]
    return max(lap.rate for lap in laps)


def utilisation(options: Options, precision: str, target: float) -> list[Result]:
    """Of the passes of the SFT stage over one micro-batch."""
    rows = world.demonstrations(options.shape, [LENGTH] * ROWS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = world.make_model(Path(scratch) / "model", options.shape)
        common = {"devices": "cpu", "report_to": "none", "learning_rate": LEARNING_RATE, "precision": precision}
        side = ours.OfflineSide(SFTConfig(train_data="rows", model=folder, output_dir=f"{folder}-ours", **common), rows)
        rows = ours.first(side.rows, ROWS)
    work, found = flops(options.shape, ROWS, LENGTH), []
    for number in range(options.pairs + 1):
        peak = product_speed(side.run.dtype)
        lap = timed(lambda: side.forward_and_backward(rows) is not None or work)
        if number:  # the first one warms up
            found.append((lap.rate, peak))
    share = median(rate / peak for rate, peak in found)
    speeds = [median(one) / 1e9 for one in zip(*found, strict=True)]
    return [
        Result(
            f"forward and backward pass, {ROWS} rows of {LENGTH}, of the matrix product's speed",
            "GFLOP/s",
            *(speeds[0], target, speeds[1]),
            utilisation=share,
            judged="utilisation",
            **how(precision),
        )
    ]


def u1(options: Options) -> list[Result]:
    """In float32."""
    return utilisation(options, "float32", 0.65)


def u2(options: Options) -> list[Result]:
    """In bf16."""
    return utilisation(options, "bf16", 0.30)

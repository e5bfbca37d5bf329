"""U1, U2: how much of the machine's matrix product a training step uses."""

import tempfile
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

from easyrlhf.config import SFTConfig
from speed import ours, world
from speed.measure import DTYPES, Options
from speed.results import Result
from speed.settings import LEARNING_RATE
from speed.turns import timed

ROWS, LENGTH = 8, 256
SIDES = {"cpu": 2048, "cuda": 8192}  # of the matrices whose product is what a device can do


def flops(size: world.Size, rows: int, length: int) -> float:
    """Floating-point operations of a forward and backward pass over rows of one length; no first token is learned."""
    return operations(size, rows * length, rows * length**2 / 2, rows * (length - 1))


def operations(size: world.Size, tokens: int, seen: float, learned: int) -> float:
    """Floating-point operations of a forward and backward pass, twice the forward one's.

    Forward: 2 for each weight of trunk and head a token goes through, and 4·H a layer for each token it looks at.

    tokens   that go through the trunk
    seen     tokens that each of them looks at, summed: S² / 2 for a row of S
    learned  tokens that go through the head of the vocabulary
    """
    trunk = 2 * size.trunk * tokens
    head = 2 * size.vocabulary * size.hidden * learned
    attention = 4 * size.layers * size.hidden * seen
    return 3.0 * (trunk + head + attention)


def row_flops(size: world.Size, row: ours.Row, *, head: bool) -> float:
    """Of the passes over a demonstration, or over a comparison whose prompt is computed once for both answers.

    head  whether the tokens of a comparison's answers go through the head of the vocabulary
    """
    if "chosen_ids" not in row:
        return flops(size, 1, row["length"])
    prompt, answers = len(row["prompt_ids"]), [len(row["chosen_ids"]), len(row["rejected_ids"])]
    seen = prompt**2 / 2 + sum(answer * (prompt + answer / 2) for answer in answers)
    return operations(size, prompt + sum(answers), seen, sum(answers) if head else 0)


def product_speed(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations a second of a product of square matrices, the best of ten."""
    side = SIDES[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    laps = [timed(lambda: F.linear(a, b) is None or 2 * side**3) for _ in range(10)]
    return max(lap.rate for lap in laps)


def faster_precision(options: Options) -> str:
    """The precision whose products are faster: bf16 on a GPU and on processors that have it, else float32."""
    if options.on_gpu:
        return "bf16"
    speeds = {name: product_speed(getattr(torch, dtype), torch.device("cpu")) for name, dtype in DTYPES.items()}
    return max(speeds, key=speeds.get)


def utilisation(options: Options, precision: str, target: float) -> list[Result]:
    """Of the passes of the SFT stage over one micro-batch."""
    rows = world.demonstrations(options.shape, [LENGTH] * ROWS)
    with tempfile.TemporaryDirectory() as scratch:
        folder = world.make_model(Path(scratch) / "model", options.shape)
        told = {"train_data": "rows", "model": folder, "output_dir": f"{folder}-ours", "devices": options.devices}
        told |= {"report_to": "none", "learning_rate": LEARNING_RATE, "precision": precision}
        side = ours.OfflineSide(SFTConfig(**told), rows)
        rows = ours.first(side.rows, ROWS)
    work, found = flops(options.shape, ROWS, LENGTH), []
    for number in range(options.pairs + 1):
        peak = product_speed(side.run.dtype, side.run.device)
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
            **options.how(precision),
        )
    ]


def u1(options: Options) -> list[Result]:
    """In float32."""
    return utilisation(options, "float32", 0.65)


def u2(options: Options) -> list[Result]:
    """In bf16."""
    return utilisation(options, "bf16", 0.30)

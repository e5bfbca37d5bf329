"""M1: peak bytes of a PPO step, beside PPOTrainer of trl 1.12.0: of all live tensors, or on a GPU of its allocator."""

import gc
from collections.abc import Callable
from contextlib import nullcontext

from shared_backbone import TensorBytes

from speed import online, world
from speed.measure import Options
from speed.results import Result
from speed.turns import Clock

STEPS = 1


def m1(options: Options) -> list[Result]:
    """With full-length answers; m9 gets a vocabulary of 32,768, as logits are much of what is saved."""
    size = world.SIZES["m9_32k"] if options.size == "m9" else options.shape
    precision = options.precision
    folders = online.Folders(size, online.NEVER)
    rows = world.prompts(size, online.EPISODES * 4, online.PROMPT)

    def ours() -> Callable:
        return online.ppo_side(options, folders, rows, precision).step

    def theirs() -> Callable:
        return online.ppo_peer(options, folders, rows, STEPS, bf16=precision == "bf16").train

    peaks = [peak(make, on_gpu=options.on_gpu) / 2**20 for make in (ours, theirs)]
    what = f"peak tensor bytes of a PPO step, vocabulary {size.vocabulary:,}, against PPOTrainer"
    ratio, how = peaks[0] / peaks[1], options.how(precision)
    return [Result(what, "MiB", peaks[0], 0.5, peaks[1], ratio, at_most=True, **how)]


def peak(make: Callable[[], Callable], *, on_gpu: bool) -> int:
    """Peak bytes while a step is made and taken."""
    clock = Clock()
    with nullcontext() if on_gpu else TensorBytes() as counter:
        make()()
    found = clock.lap(1).memory if on_gpu else counter.peak
    gc.collect()
    return found

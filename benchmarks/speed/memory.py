"""M1: peak bytes of all live tensors over a PPO step, beside PPOTrainer of trl 1.12.0."""

import gc
from collections.abc import Callable

from shared_backbone import TensorBytes

from speed import online, world
from speed.measure import Options
from speed.results import Result

STEPS = 1


def m1(options: Options) -> list[Result]:
    """With a vocabulary of 32,768, full-length answers, float32."""
    size = world.SIZES["m9_32k"]
    folders = online.Folders(size, online.NEVER)
    rows = world.prompts(size, online.EPISODES * 4, online.PROMPT)

    def ours() -> Callable:
        return online.ppo_side(folders, rows, "float32").step

    def theirs() -> Callable:
        return online.ppo_peer(folders, rows, STEPS, bf16=False).train

    peaks = [peak(make) / 2**20 for make in (ours, theirs)]
    what = "peak tensor bytes of a PPO step, vocabulary 32,768, against PPOTrainer"
    return [Result(what, "MiB", peaks[0], 0.5, peaks[1], peaks[0] / peaks[1], at_most=True)]


def peak(make: Callable[[], Callable]) -> int:
    """Peak bytes while a step is made and taken."""
    with TensorBytes() as counter:
        make()()
    gc.collect()
    return counter.peak

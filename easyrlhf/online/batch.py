"""The prompts of a step, sampled until they teach something where the settings allow that."""

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from easyrlhf.config import OnlineConfig
from easyrlhf.data.batches import endless_order
from easyrlhf.online.collect import collect
from easyrlhf.online.rollout import Rollout, concatenate
from easyrlhf.online.state import LoopState, Online
from easyrlhf.rollout.sampler import TRAINING
from easyrlhf.run.run import Run
from easyrlhf.run.timer import Timer


def collect_batch(
    run: Run, online: Online, prompts: Dataset, timer: Timer, at: LoopState
) -> tuple[Rollout, dict[str, float]]:
    """A step's rollout and what sampling it again says.

    As long as some groups get no advantage, and the settings allow, another rollout is sampled on the next prompts, and
    its groups that get one take their places (Yu et al. 2025, eq. 11).
    """
    config, size = run.config, run.config.num_generations

    def teaches(drawn: Rollout) -> Tensor:
        return online.method.groups_that_teach(drawn, config, at.kl_coef)

    def draw() -> Rollout:
        rows, keys = prompt_batch(prompts, config, at.drawn)
        at.drawn += config.batch_size
        return collect(run, online, rows, keys, timer, with_reference=config.kl_measured == "step")

    rollout = draw()
    for _ in range(config.resamples):
        kept = teaches(rollout)
        if kept.all():
            break
        both = concatenate(rollout, draw())
        wanted = torch.cat([kept, teaches(both)[len(kept) :]])
        groups = torch.arange(len(both)).view(-1, size)
        order = (~wanted).int().argsort(stable=True)
        rollout = both.take(groups[order.cpu()].flatten()[: config.batch_size].tolist())
    if not online.method.in_groups:
        return rollout, {}
    return rollout, {"health/equal_groups": 1 - teaches(rollout).float().mean().item()}


def prompt_batch(
    prompts: Dataset, config: OnlineConfig, drawn: int
) -> tuple[list[dict[str, Any]], list[tuple[int, ...]]]:
    """Prompt rows of the next rollout, once per completion, and their sampling keys.

    Epochs follow one another, each in its own order, or all in that of the files.

    drawn  completions before it
    """
    size = config.num_generations
    numbers = range(drawn // size, (drawn + config.batch_size) // size)
    shuffled = endless_order(len(prompts), config.seed, numbers)
    order = shuffled if config.shuffle_prompts else [number % len(prompts) for number in numbers]
    rows = [prompts[row] for row in order for _ in range(size)]
    return rows, [(config.seed, TRAINING, number) for number in range(drawn, drawn + config.batch_size)]

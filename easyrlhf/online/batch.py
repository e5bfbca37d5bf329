"""The prompts of a step, sampled until they teach something where the settings allow that."""

from dataclasses import replace
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from easyrlhf.config import OnlineConfig
from easyrlhf.data.batches import endless_order
from easyrlhf.data.blocks import Blocks
from easyrlhf.online.collect import collect
from easyrlhf.online.rollout import Rollout, concatenate
from easyrlhf.online.state import LoopState, Online
from easyrlhf.rollout.sampler import TRAINING
from easyrlhf.run.run import Run
from easyrlhf.run.timer import Timer

MOST_WAITING = 1000  # prompts that are to be asked once more


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
        again = asked_again(run, online, at) if config.reroll_max_groups else []
        places = [*again, *prompt_places(prompts, config, at.drawn // size - at.repeated, len(again))]
        rows, keys = prompt_batch(prompts, config, at.drawn, places)
        if config.rollout_ahead:
            with timer("rollout"):
                begin_draws(run, online, prompts, at.drawn)
        at.drawn += config.batch_size
        at.repeated += len(again)
        drawn = collect(run, online, rows, keys, timer, with_reference=config.kl_measured == "step")
        if config.reroll_max_groups:
            at.failed = failures(drawn, places, len(again), at.failed, config)
        numbers = torch.tensor(places, device=drawn.scores.device).repeat_interleave(size)
        return replace(drawn, numbers=numbers) if config.replay_buffer_size else drawn

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


def begin_draws(run: Run, online: Online, prompts: Dataset, drawn: int) -> None:
    """Let the sampler begin the draw that is asked for next and those after it, as many as are to be under way.

    Each step to come takes one at least, so that none of them is for nothing; what dynamic sampling will take besides
    is not known.

    drawn  completions before the draw
    """
    config, sampler = run.config, online.sampler
    more = min(config.rollout_ahead, online.rewards.state.max_steps - run.step - 1)
    for first in range(drawn, drawn + (more + 1) * config.batch_size, config.batch_size):
        if sampler.has_begun((config.seed, TRAINING, first)):
            continue
        rows, keys = prompt_batch(prompts, config, first)  # as collecting will ask for them
        if online.player is None:
            sampler.begin([row["prompt_ids"] for row in rows], keys)
        else:
            sampler.begin_to_play(online.player, rows, keys)


def prompt_places(prompts: Dataset | Blocks, config: OnlineConfig, first: int, displaced: int = 0) -> list[int]:
    """Which of the prompts the next rollout asks anew.

    Epochs follow one another, each in its own order, or all in that of the files; blocks of a text stay together.

    first      new prompts before it
    displaced  prompts of it that are asked once more
    """
    numbers = range(first, first + config.batch_size // config.num_generations - displaced)
    if not config.shuffle_prompts:
        return [number % len(prompts) for number in numbers]
    if isinstance(prompts, Blocks):
        return prompts.endless_order(config.seed, numbers)
    return list(endless_order(len(prompts), config.seed, numbers))


def prompt_batch(
    prompts: Dataset, config: OnlineConfig, drawn: int, places: list[int] | None = None
) -> tuple[list[dict[str, Any]], list[tuple[int, ...]]]:
    """Prompt rows of the next rollout, once per completion, and their sampling keys.

    drawn   completions before it
    places  of its prompts; None: the new ones alone
    """
    size = config.num_generations
    if places is None:
        places = prompt_places(prompts, config, drawn // size)
    rows = [prompts[place] for place in places for _ in range(size)]
    return rows, [(config.seed, TRAINING, number) for number in range(drawn, drawn + config.batch_size)]


def asked_again(run: Run, online: Online, at: LoopState) -> list[int]:
    """The prompts that have failed and are asked once more now, taken from those that wait."""
    config = run.config
    begun = config.reroll_max_groups and run.step >= config.reroll_start_fraction * online.rewards.state.max_steps
    count = config.reroll_max_groups if begun else 0
    again, at.failed = at.failed[:count], at.failed[count:]
    return again


def failures(drawn: Rollout, places: list[int], again: int, waiting: list[int], config: OnlineConfig) -> list[int]:
    """The prompts that wait, with those that have failed now; who fails once more, or waits already, does not join.

    places  of the rollout's prompts, of which the first `again` were asked once more
    """
    best = drawn.scores.view(len(places), -1).nan_to_num(nan=-torch.inf).amax(1).tolist()
    scored = zip(places[again:], best[again:], strict=True)
    lost = [place for place, score in scored if -torch.inf < score <= config.reroll_below]
    return list(dict.fromkeys([*waiting, *lost]))[:MOST_WAITING]

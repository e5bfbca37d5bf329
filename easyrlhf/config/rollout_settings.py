"""What an online stage samples: how much, how, and what is kept of it."""

from dataclasses import dataclass
from typing import ClassVar

from easyrlhf.config.answering import StopTexts
from easyrlhf.config.base import FREE, ONLINE, RUN, SAMPLING, Settings, opt


@dataclass(kw_only=True, frozen=True)
class Rollouts(Settings):
    """What is sampled for each step, and how much of it in all."""

    group: ClassVar[str] = ONLINE

    measure_kl: str = opt(
        "auto",
        "When to ask the reference for the distance from it: at every step, at evaluations alone, or never. auto: at "
        "every step where the distance has a price, else at evaluations where that takes no model in memory or "
        "ref_model names one, else never, and no reference is held.",
        choices=("auto", "step", "eval", "never"),
    )
    batch_size: int = opt(
        64,
        "Completions per rollout, over all devices; divisible by num_generations and num_mini_batches. 64 to 512 is "
        "usual.",
        low=1,
    )
    num_generations: int = opt(
        1,
        "Completions per prompt in a rollout. A prompt is computed once for all of them, which makes several cheaper "
        "than as many prompts, and the rollout less varied.",
        low=1,
    )
    shuffle_prompts: bool = opt(
        True,
        "Ask the prompts in an order drawn anew for each epoch. --no_shuffle_prompts keeps that of the files, in every "
        "epoch: a curriculum.",
    )
    total_episodes: int | None = opt(
        None,
        "Completions to learn from in the whole run; what is sampled besides and thrown away does not count.",
        low=1,
        shown="epochs x prompts",
    )
    num_mini_batches: int = opt(
        1,
        "Optimiser steps per pass: the rollout is split into so many parts, by prompts where that is even.",
        low=1,
    )


@dataclass(kw_only=True, frozen=True)
class Rerolls(Settings):
    """Prompts that are asked once more."""

    group: ClassVar[str] = ONLINE

    reroll_max_groups: int = opt(
        0,
        "Most prompts of a rollout that are asked once more, as none of their completions scored above reroll_below; 0 "
        "for none. The new prompts whose places they take come next.",
        low=0,
    )
    reroll_start_fraction: float = opt(
        0.5, "Share of the run's steps before prompts are asked once more.", low=0, high=1
    )
    reroll_below: float = opt(0.0, "A completion that scores above X has not failed.")


@dataclass(kw_only=True, frozen=True)
class Temperature(Settings):
    """How the tokens of a completion are drawn."""

    group: ClassVar[str] = SAMPLING

    temperature: float = opt(
        1.0,
        "Softmax temperature of sampling and of all log-probabilities; 0.7 to 1.",
        above=0,
    )


@dataclass(kw_only=True, frozen=True)
class RolloutSampling(StopTexts, Temperature):
    """What ends a completion, how many are written at once and how many are printed."""

    group: ClassVar[str] = SAMPLING

    local_rollout_forward_batch_size: int | None = opt(
        None,
        "Completions decoded together on a device. Lower it when sampling runs out of memory.",
        low=1,
        shown="64 on a CPU; on a GPU as many as an eighth of its memory holds",
        on_resume=FREE,
    )
    num_sample_generations: int = opt(
        10,
        "How often in the run to print a sample with its score and KL; 0 for never.",
        low=0,
        on_resume=FREE,
    )


@dataclass(kw_only=True, frozen=True)
class RolloutLog(Settings):
    """Which samples are kept for a reader."""

    group: ClassVar[str] = RUN

    log_rollouts: int = opt(
        8,
        "Completions of each step to keep in rollouts.jsonl, with every reward, advantage and KL, spread over the "
        "rollout; 0 for none. easyrlhf rollouts and report.html show them.",
        low=0,
        on_resume=FREE,
    )
    log_rollout_ids: bool = opt(False, "Keep their token ids as well.", on_resume=FREE)

"""What EBFT has in place of rewards: demonstrations to compare with, features, and the measure they are compared in."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset

from easyrlhf.config import EBFTConfig
from easyrlhf.data.batches import endless_order
from easyrlhf.data.blocks import Blocks, Stride, answered_row
from easyrlhf.data.lengths import TOLERATED
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokens import TokenData
from easyrlhf.errors import InputError, RunError
from easyrlhf.losses.ebft import Whitening
from easyrlhf.models.features import layers_at
from easyrlhf.models.parts import evaluating
from easyrlhf.online.ebft import ALIGNMENT, DIVERSITY, FeatureMatching, FeatureSource
from easyrlhf.online.rollout import unpad
from easyrlhf.online.state import Models, Online
from easyrlhf.report.console import Console
from easyrlhf.rewards.combined import Rewards
from easyrlhf.rollout.sampler import START
from easyrlhf.run.run import Run


@dataclass(frozen=True)
class AnsweredPrompts:
    """Demonstrations as prompts with an answer each: what stands before the last answer, and that.

    A row is a prompt row with `answer_ids`, and `number`, its own.

    rows     demonstration rows, as load_tokens gives them
    numbers  those that are meant
    longest  tokens of an answer that are compared: no completion has more
    """

    rows: Dataset
    numbers: list[int]
    longest: int
    renderer: Renderer

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, place: int) -> dict[str, Any]:
        number = self.numbers[place]
        row = self.rows[number]
        start = answer_start(row["loss_mask"])
        prompt, answer = row["input_ids"][:start], row["input_ids"][start : start + self.longest]
        return answered_row(self.renderer, prompt, answer, number)

    def select(self, places: range) -> "AnsweredPrompts":
        """Some of them."""
        return AnsweredPrompts(self.rows, [self.numbers[place] for place in places], self.longest, self.renderer)


def answer_start(loss_mask: list[int]) -> int:
    """Where the last answer of a demonstration begins."""
    last = len(loss_mask) - loss_mask[::-1].index(1)  # behind it
    return last - next((n for n, learned in enumerate(loss_mask[:last][::-1]) if not learned), last)


def answered_prompts(config: EBFTConfig, name: str, data: TokenData, renderer: Renderer) -> AnsweredPrompts:
    """Demonstrations as prompts with answers, without those that have no prompt, or a longer one than may be.

    Raises InputError where these are many, unless overlength says to drop them, or where none is left.
    """
    starts = [answer_start(mask) for mask in data.rows["loss_mask"]]
    numbers = [number for number, start in enumerate(starts) if 0 < start <= config.max_prompt_length]
    lost = len(starts) - len(numbers)
    if (lost > TOLERATED * len(starts) and config.overlength != "drop") or not numbers:
        raise InputError(
            f"--{name}_data: {lost:,} of {len(starts):,} demonstrations have no prompt before their last answer, or "
            f"one of more than {config.max_prompt_length} tokens (--max_prompt_length); raise it, give rows with a "
            "prompt, or leave them out with --overlength drop; plain texts are for --ebft_mode stride"
        )
    return AnsweredPrompts(data.rows, numbers, config.completion_limit, renderer)


def text_blocks(config: EBFTConfig, name: str, data: TokenData, renderer: Renderer) -> Blocks:
    """Plain texts as prompts with answers, in many places of each, without those that are too short for one.

    Raises InputError where a row is no plain text, or where too short ones are many, unless overlength says to drop
    them, or where none is left.
    """
    # A text may begin with a token that says so and is not learned; whatever else is not learned is a prompt.
    others = sum(0 in mask[1:] for mask in data.rows["loss_mask"])
    if others:
        raise InputError(
            f"--{name}_data: {others:,} of {len(data.rows):,} rows have a prompt, and --ebft_mode stride continues "
            'plain texts; give rows such as {"text": "…"}, or leave --ebft_mode out'
        )
    stride = Stride(config.context_length, config.stride, config.generate_length, config.max_prompt_length)
    lengths = data.rows["length"]
    numbers = [number for number, length in enumerate(lengths) if stride.blocks(length)]
    lost = len(lengths) - len(numbers)
    if (lost > TOLERATED * len(lengths) and config.overlength != "drop") or not numbers:
        raise InputError(
            f"--{name}_data: {lost:,} of {len(lengths):,} texts have fewer than "
            f"{config.context_length + config.generate_length} tokens (--context_length and --generate_length); lower "
            "these, give longer texts, or leave short ones out with --overlength drop"
        )
    return Blocks(data.rows, numbers, stride, renderer)


def feature_rewards(config: EBFTConfig, models: Models, renderer: Renderer) -> Rewards:
    """The two parts of EBFT's reward, weighted."""
    with models.as_reference() as lm:
        layers = layers_at(lm, config.depths)
    matching = FeatureMatching(models, layers, config.feature_pooling, config.num_generations)
    sources = [FeatureSource(name, matching) for name in (ALIGNMENT, DIVERSITY)]
    weights = [2 * config.alignment_coef, -2 * config.diversity_coef]
    return Rewards(sources, weights, None, 0.0, renderer)


def measure(run: Run, online: Online, prompts: AnsweredPrompts | Blocks, console: Console) -> None:
    """Find out, once in a run, how features vary, among demonstrations and answers of the start model.

    Checkpoints hold what was found. Raises RunError where they do not vary.
    """
    config, matching = run.config, online.rewards.sources[0].matching
    if not config.whiten_samples:
        return
    if "whitening" not in run.kept:
        console.note(f"measuring how the features of {config.whiten_samples} demonstrations and answers vary …")
        order = endless_order(len(prompts), config.seed, range(min(config.whiten_samples, len(prompts))))
        rows = [prompts[place] for place in order]
        asked, shown = ([row[key] for row in rows] for key in ("prompt_ids", "answer_ids"))
        samples = online.sampler.generate(asked, [(config.seed, START, number) for number in range(len(rows))])
        said = unpad(samples.completion_ids, samples.completion_mask)
        with evaluating(*online.models.trained):
            features = torch.cat([matching.features(asked, shown), matching.features(asked, said)])
        found = Whitening.of(features, config.whiten_epsilon)
        if not found.floor.isfinite():
            raise RunError(
                f"the features of {len(features)} demonstrations and answers are all the same, so there is nothing to "
                "compare them by; give other --feature_depths, or --feature_pooling mean"
            )
        run.kept["whitening"] = {name: tensor.contiguous() for name, tensor in vars(found).items()}
    matching.whitening = Whitening(**run.kept["whitening"])

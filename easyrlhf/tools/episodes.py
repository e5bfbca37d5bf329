"""Answers that are episodes of an environment: played as in training, by a model that is not trained."""

import math
from collections import Counter
from dataclasses import dataclass, fields, replace
from typing import Any

from datasets import Dataset

from easyrlhf.config import GenerateConfig, PlayConfig
from easyrlhf.data.render import Renderer
from easyrlhf.episodes.play import Player
from easyrlhf.errors import InputError, RunError
from easyrlhf.online.state import MOST_DROPPED
from easyrlhf.rollout.sampler import TRAINING, HFSampler
from easyrlhf.stages.environments import Playground, check_environment, check_prompt_room, make_player, played_flag
from easyrlhf.tools.answer_rows import FAILED, GeneratedAnswer
from easyrlhf.tools.policy import room_for_prompt

NO_LIMIT = 2**31 - 1


@dataclass(frozen=True)
class AnsweringPlayer(Player):
    """Plays with keys (seed, number of the prompt, number of the sample), as answers of `easyrlhf generate` have."""

    def task(self, key: tuple[int, ...]) -> tuple[int, ...]:
        """All samples of a prompt are the same task, however many there are."""
        seed, number, _ = key
        return seed, TRAINING, number


def open_player(config: GenerateConfig | PlayConfig, renderer: Renderer, rows: Dataset) -> AnsweringPlayer | None:
    """What plays the environment of the settings, None without one. Loads no model.

    Raises InputError for an environment that cannot be played with these prompts and this model's chat template, or
    that gives no rewards where answers are chosen by them.
    """
    playground = check_environment(config, renderer, {"prompts": rows} if config.plays else {})
    if playground is None:
        return None
    check_judges(config, playground)
    player = make_player(config, renderer, playground)
    room = config.max_prompt_length or room_for_prompt(config) or NO_LIMIT
    if playground.tools.schemas:
        check_prompt_room(played_flag(config), renderer, playground.tools, {"prompts": rows}, room)
    parts = {field.name: getattr(player, field.name) for field in fields(player)}
    return AnsweringPlayer(**parts | {"limits": replace(player.limits, prompt=room)})


def check_judges(config: GenerateConfig | PlayConfig, playground: Playground) -> None:
    """Raise InputError where answers are chosen by rewards that the environment does not give."""
    if config.value("selects") and not playground.environment.rewards and not config.reward_model:
        raise InputError(
            f"--environment {config.environment}: has no get_reward, and answers are to be chosen by their rewards; "
            "add one, or leave out --best_of, --min_reward and --to"
        )


def episodes_of(
    player: AnsweringPlayer, sampler: HFSampler, rows: list[dict[str, Any]], keys: list[tuple[int, ...]]
) -> list[GeneratedAnswer]:
    """An episode for each row as an answer, drawn from its key, whose last number is the sample's.

    Raises EnvironmentFailed.
    """
    samples = player.play(sampler, rows, keys)
    found = zip(keys, samples.episodes, samples.finished.tolist(), strict=True)
    return [
        GeneratedAnswer(
            key[-1],
            episode.messages,
            finished,
            reward=None if math.isnan(episode.reward) else episode.reward,
            judged=player.environment.rewards,
            episode=episode,
            tools=player.tools.schemas,
        )
        for key, episode, finished in found
    ]


def check_left_out(answers: list[GeneratedAnswer], tally: Counter, total: int) -> None:
    """Raise RunError when the environment failed in more than a tenth of all episodes that are to be played."""
    failures = [answer.episode.failure for answer in answers if answer.episode and answer.episode.dropped]
    failed = tally[FAILED] + len(failures)
    if failures and failed > MOST_DROPPED * total:
        raise RunError(
            f"the environment failed in {failed:,} of {total:,} episodes, and --on_environment_error drop leaves out "
            f"at most {MOST_DROPPED:.0%} of them; one of them:\n{failures[-1]}"
        )

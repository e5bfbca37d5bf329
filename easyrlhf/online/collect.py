"""Collect: sample completions, then let policy, reference, value model and rewards say what they think of them."""

import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from easyrlhf.engine import processes
from easyrlhf.engine.faults import named
from easyrlhf.engine.micro_batches import group_by_prompt
from easyrlhf.episodes.play import Episode
from easyrlhf.errors import ServiceError
from easyrlhf.models.logprobs import token_logprobs_and_entropies
from easyrlhf.models.parts import evaluating
from easyrlhf.online.rollout import Rollout, unpad
from easyrlhf.online.state import MOST_DROPPED, Online
from easyrlhf.rewards.batch import RewardBatch
from easyrlhf.rewards.stream import RewardStream
from easyrlhf.rollout.sampler import Samples
from easyrlhf.run.run import Run
from easyrlhf.run.timer import Timer


@torch.no_grad()
def collect(
    run: Run,
    online: Online,
    rows: list[dict[str, Any]],
    keys: list[tuple[int, ...]],
    timer: Timer,
    with_reference: bool = True,
) -> Rollout:
    """Sample one completion for each prompt row and score it with every model; each process a share, all get all.

    rows  prompt rows as load_tokens gives them
    keys  what the sampler draws each row's random numbers from
    with_reference  whether the reference is asked as well
    Raises RewardError when a reward source fails, ServiceError when sampling or a model does.
    """
    rewards = online.rewards
    rewards.state.global_step = run.step

    def longest() -> str:
        return RewardBatch.of(rows, completions, [False] * len(rows), rewards.renderer).longest_sample()

    with rewards.stream(rows) as stream:
        # 1. Sample. A key belongs to a sample, not to a place in a batch: the same sample whoever draws it.
        completions: list[list[int]] = [[] for _ in rows]
        with timer("rollout"), named("sampling with the policy", longest):
            samples, rows = sample(online, rows, keys, stream)
        completions = unpad(samples.completion_ids, samples.completion_mask)
        # 2. Ask the models, dropout off; the policy too, for what its sampler knew already: the first update's ratio is
        # then 1 by the same arithmetic, and what the sampler's numbers differ by can be measured.
        with timer("score"), evaluating(*online.models.trained):
            scored = score_tokens(online, rows, completions, samples, with_reference, longest)
            # 3. Score whole completions, all those of a prompt in one call: a function may compare them.
            scores, source_scores = rewards(rows, completions, samples.finished, stream)
    return Rollout(
        rows=rows,
        completion_ids=samples.completion_ids,
        completion_mask=samples.completion_mask,
        finished=samples.finished,
        sampler_logprobs=samples.logprobs,
        scores=scores,
        source_scores=source_scores,
        extra=list(rewards.extra),
        action_mask=samples.action_mask,
        staleness=torch.full_like(scores, samples.staleness),
        turn_rewards=None if samples.episodes is None else turn_rewards(samples.episodes, samples.completion_mask),
        **scored,
    )


def sample(
    online: Online, rows: list[dict[str, Any]], keys: list[tuple[int, ...]], stream: RewardStream | None = None
) -> tuple[Samples, list[dict[str, Any]]]:
    """A completion or an episode for each row, and the rows as they were answered.

    stream  what asks for rewards meanwhile; not of episodes
    """
    if online.player is None:
        ended = {} if stream is None else {"ended": stream.ended}
        return online.sampler.generate([row["prompt_ids"] for row in rows], keys, **ended), rows
    samples = online.sampler.play(online.player, rows, keys)
    return samples, with_episodes(rows, samples.episodes, online.most_dropped)


def with_episodes(
    rows: list[dict[str, Any]], episodes: list[Episode], most_dropped: float = MOST_DROPPED
) -> list[dict[str, Any]]:
    """The rows with what became of them; a prompt that the environment has added to is the one that was answered.

    Raises ServiceError where the environment failed in more than that share of them, or in all.
    """
    check_dropped(episodes, most_dropped)
    return [
        row | {"episode": episode, "prompt_ids": episode.prompt_ids, "prompt": json.dumps(episode.prompt)}
        for row, episode in zip(rows, episodes, strict=True)
    ]


def check_dropped(episodes: list[Episode], most: float = MOST_DROPPED) -> None:
    """Raise ServiceError where the environment failed in more than that share of these episodes, or in all."""
    dropped = [episode for episode in episodes if episode.dropped]
    if len(dropped) > most * len(episodes) or (dropped and len(dropped) == len(episodes)):
        raise ServiceError(
            f"the environment failed in {len(dropped)} of {len(episodes)} episodes, and --on_environment_error drop "
            f"leaves out at most {MOST_DROPPED:.0%} of a rollout; one of them:\n{dropped[0].failure}"
        )


def turn_rewards(episodes: list[Episode], mask: Tensor) -> Tensor:
    """What the turns of these episodes earned, each at its last sampled token.  [B, T]"""
    earned = torch.zeros_like(mask)
    for row, episode in zip(earned, episodes, strict=True):
        for place, reward in episode.turn_rewards:
            row[place] += reward
    return earned


def score_tokens(
    online: Online,
    rows: list[dict[str, Any]],
    completions: list[list[int]],
    samples: Samples,
    with_reference: bool,
    show: Callable[[], str],
) -> dict[str, Tensor | None]:
    """Per-token numbers of every completion from policy, reference and value model, each [B, T], 0 on padding.

    show  → a sample, for the ServiceError that is raised when one of them fails
    """
    models, passes, temperature = online.models, online.models.passes, online.sampler.temperature
    names = ["old_logprobs", "entropies"] + ["ref_logprobs"] * with_reference + ["values"] * (models.value is not None)
    scored = {name: torch.zeros_like(samples.completion_mask) for name in names}
    prompts = [row["prompt_ids"] for row in rows]

    # Every process reads its share, and the sum of all shares is the whole: what is not one's own stays 0.
    def own() -> None:
        for group, weight in passes.over(prompts, list(map(len, completions))):
            groups = group_by_prompt([prompts[i] for i in group], [completions[i] for i in group])
            # Each model by its name, in the order of `names`: an error of one must not pass for another's.
            with named("the policy", show):
                found = [*token_logprobs_and_entropies(models.policy, groups, passes.share, temperature)]
            if with_reference:
                with named("the reference", show):
                    found.append(models.ref_logprobs(groups, temperature))
            if models.value is not None:
                with named("the value model", show):
                    found.append(models.value.completion_values(groups, passes.share))
            counted = samples.completion_mask[group].bool()
            # What is computed twice, so that all processes make as many passes, is taken once.
            for name, flat in zip(names, found, strict=True) if weight else ():
                scored[name][group] = scored[name][group].masked_scatter(counted, weight * flat.float())

    processes.gather_results(own)
    sampled = 1 if samples.action_mask is None else samples.action_mask  # of an environment's tokens nothing is said
    return {"values": None, "ref_logprobs": None} | {
        name: processes.all_reduce_sum(numbers) * sampled for name, numbers in scored.items()
    }

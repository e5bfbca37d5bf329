"""Playing episodes with an environment: a row of a rollout from each."""

import asyncio
import json
import math
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from easyrlhf.data.batches import pad_right
from easyrlhf.data.chat_template import arguments_for
from easyrlhf.data.records import Messages
from easyrlhf.data.render import Renderer
from easyrlhf.episodes.calls import Calls, EnvironmentFailed
from easyrlhf.episodes.chat import EpisodeChat, EpisodeLimits
from easyrlhf.episodes.environments import Environment, played
from easyrlhf.episodes.tools import Tools
from easyrlhf.episodes.waves import AtOnce, Key, Turns, TurnSampler, Waves, run_to_end
from easyrlhf.models.parts import plain_lm
from easyrlhf.rollout.sampler import TRAINING, Samples


@dataclass(frozen=True)
class Episode:
    """What became of an episode beside its tokens.

    prompt, prompt_ids  as the episode began, with what reset has put there
    messages            turns since
    turns               of the policy
    reward              nan where it has none, or was dropped
    turn_rewards        of it what chat.reward gave: the place of a sampled token, and the reward that it earned
    failure             what the environment failed with, in which case nothing is learned from the episode; else ""
    seconds             that the environment has taken
    environment         the object it was played with, closed; None where no reward function asks for it
    parts               of the reward by name
    """

    prompt: Messages
    prompt_ids: list[int]
    messages: Messages
    turns: int
    reward: float
    turn_rewards: list[tuple[int, float]]
    failure: str
    tool_calls: int
    tool_errors: int
    seconds: float
    environment: Any = None
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def dropped(self) -> bool:
        """Whether nothing is learned from it."""
        return bool(self.failure)


@dataclass(frozen=True)
class Player:
    """Plays an environment with a policy.

    tools        of an episode, as the chat template is told of them
    generations  completions of a prompt in a rollout: they are the same task
    timeout      seconds of one call
    workers      calls at a time
    drop         whether an episode whose environment fails is left out; else that ends the run
    keep         whether episodes keep the objects that they were played with
    sent         whether other processes read the episodes, and these objects
    concurrency  episodes alive at a time; None for all
    stopping     whether the user has asked the run to stop
    """

    environment: Environment
    renderer: Renderer
    limits: EpisodeLimits
    tools: Tools
    generations: int
    timeout: float
    workers: int
    drop: bool
    keep: bool = False
    sent: bool = False
    concurrency: int | None = None
    stopping: Callable[[], bool] = lambda: False

    def play(self, sampler: TurnSampler, rows: list[dict[str, Any]], keys: list[Key], at_once: bool = False) -> Samples:
        """An episode for each prompt row; everything that is drawn depends on its key and on nothing else.

        at_once  whether each turn is sampled as soon as it is asked for; else in waves
        Raises EnvironmentFailed, with the episode, when the environment does and failures are not dropped, and
        ServiceStopped when the run is asked to stop.
        """
        return in_own_thread(lambda: run_to_end(self._play(sampler, rows, keys, AtOnce if at_once else Waves)))

    async def _play(
        self, sampler: TurnSampler, rows: list[dict[str, Any]], keys: list[Key], kind: type[Turns]
    ) -> Samples:
        turns = kind(sampler, self.concurrency or len(rows), self.stopping)
        workers = asyncio.Semaphore(self.workers)
        chats = [self.chat_of(row, key, place, turns) for place, (row, key) in enumerate(zip(rows, keys, strict=True))]
        begin = [partial(self.episode, row, chat, workers) for row, chat in zip(rows, chats, strict=True)]
        async with self.environment.around():
            return episode_samples(chats, await turns.run(begin), sampler)

    def chat_of(self, row: dict[str, Any], key: Key, place: int, turns: Turns) -> EpisodeChat:
        """The conversation of a row, nothing said yet."""
        prompt, columns = json.loads(row["prompt"]), json.loads(row["columns"])
        arguments = arguments_for(prompt, columns) | ({"tools": self.tools.schemas} if self.tools.schemas else {})
        # The first turn has the key of a completion without an environment, whose zeros behind it change no number.
        ask = turns.asking(place, lambda turn: (*key, turn) if turn else key)
        given = None if self.tools.schemas else row["prompt_ids"]
        chat = EpisodeChat(self.renderer, ask, self.limits, prompt, arguments, task_seed(self.task(key)), self.tools)
        chat.prompt_ids, chat.place, chat.own_seed = given, row.get("place", ""), own_seed(key)
        return chat

    def task(self, key: Key) -> tuple[int, ...]:
        """What the seed of an episode is drawn from: the completions of a prompt are compared on one task."""
        seed, kind, number = key
        return seed, kind, number // (self.generations if kind == TRAINING else 1)

    async def episode(self, row: dict[str, Any], chat: EpisodeChat, workers: asyncio.Semaphore) -> Episode:
        """Play one; its outcome."""
        calls = Calls(self.environment.name, chat, workers, self.timeout)
        chat.since = time.monotonic()  # others may have been played before it
        failure, reward, turn_rewards = "", math.nan, []
        try:
            given = await played(self.environment, chat, json.loads(row["columns"]), calls)
            if not chat.turns:
                raise calls.failed("ended before the policy said anything")
            turn_rewards = [(place, self.number(one, calls)) for place, one in chat.rewards]
            rewards = [one for _, one in turn_rewards] + ([] if given is None else [self.number(given, calls)])
            reward = sum(rewards) if rewards else math.nan
            if self.keep and self.sent and (fault := unsendable(chat.environment)):
                raise calls.failed(fault)
        except EnvironmentFailed as error:
            if not self.drop:
                raise
            if not chat.turns:
                chat.stand_in(json.loads(row["prompt"]), row["prompt_ids"])
            failure, turn_rewards = str(error), []
        return Episode(
            prompt=chat.prompt,
            prompt_ids=chat.prompt_ids,
            messages=chat.messages,
            turns=chat.turns,
            reward=reward,
            turn_rewards=turn_rewards,
            failure=failure,
            tool_calls=calls.tool_calls,
            tool_errors=calls.tool_errors,
            seconds=calls.seconds,
            environment=chat.environment if self.keep else None,
            parts={} if failure else chat.parts,
        )

    def number(self, given: Any, calls: Calls) -> float:
        """A reward as a number. Raises EnvironmentFailed for what is no finite one."""
        try:
            found = float(given)
        except (TypeError, ValueError):
            found = math.nan
        if not math.isfinite(found):
            raise calls.failed(f"gave {given!r} as reward, which is no finite number")
        return found


def unsendable(environment: Any) -> str:
    """What keeps an environment from being sent to another process; "" where nothing does."""
    try:
        pickle.dumps(environment)
    except Exception as error:  # whatever its attributes raise
        return (
            f"reward functions ask for it (environments), and it cannot be sent to other processes ({error}); let its "
            "__getstate__ leave out what cannot, or train in one process"
        )
    return ""


def in_own_thread(work: Callable[[], Samples]) -> Samples:
    """What it gives, from another thread where this one runs an event loop already, as a notebook's does."""
    if asyncio._get_running_loop() is None:
        return work()
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


def task_seed(task: tuple[int, ...]) -> int:
    """A seed for a task, from its numbers."""
    return int(np.random.SeedSequence(task).generate_state(1)[0])


def own_seed(key: Key) -> int:
    """A seed for a sample alone, from its key; of 53 bits, which JSON's numbers hold everywhere."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(11))


def episode_samples(chats: list[EpisodeChat], episodes: list[Episode], sampler: TurnSampler) -> Samples:
    """The rows of these episodes, each through its last sampled token."""
    device = plain_lm(sampler.lm).device
    rows = [through_last_sampled(chat) for chat in chats]
    ids, sampled, logprobs = (list(column) for column in zip(*rows, strict=True))
    return Samples(
        completion_ids=pad_right(ids, sampler.pad_id).to(device),
        completion_mask=pad_right([[1] * len(row) for row in ids]).float().to(device),
        logprobs=pad_right(logprobs, 0.0).to(device),
        finished=torch.tensor([chat.finished for chat in chats], device=device),
        action_mask=pad_right(sampled).float().to(device),
        episodes=episodes,
    )


def through_last_sampled(chat: EpisodeChat) -> tuple[list[int], list[int], list[float]]:
    """Ids, which of them were sampled, and log-probabilities, without an environment's text that nobody answered."""
    if not chat.turns:
        return chat.ids, chat.sampled, chat.logprobs
    end = len(chat.sampled) - chat.sampled[::-1].index(1)
    return chat.ids[:end], chat.sampled[:end], chat.logprobs[:end]

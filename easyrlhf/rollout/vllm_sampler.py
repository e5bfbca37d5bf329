"""Sampling with vLLM, which holds a copy of the policy's weights, here or in a server of its own."""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from math import nan
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from easyrlhf.data.batches import pad_right
from easyrlhf.engine import processes
from easyrlhf.engine.engine import Engine
from easyrlhf.engine.micro_batches import slice_of
from easyrlhf.errors import InputError, ServiceError
from easyrlhf.models.parts import plain_lm
from easyrlhf.rollout.ahead import Completion, DrawnAhead, Draws, Key, packed_draws, unpacked_draws
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import EVALUATION, Ended, Samples
from easyrlhf.rollout.sharded import EpisodePlayer, gathered_samples, on_cpu

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # of adapters that vLLM has room for
ATTEMPTS = 3  # at a rollout, while vLLM is there again each time and fails again


@dataclass(frozen=True)
class Drawing:
    """What vLLM draws: tokens from the plain softmax at a temperature, over the ids that are tokens, until the end.

    limit  tokens of the longest completion
    spare  ids without a token: a logit less by 100, which is the most there is, is none, and vLLM's log-probabilities
           are those after it
    """

    limit: int
    ending: Ending
    spare: list[int]
    temperature: float

    def settings(self) -> dict[str, Any]:
        """What vLLM has to know, in its own names, as JSON has them."""
        known = {
            "temperature": self.temperature,
            "top_p": 1.0,
            "top_k": -1,
            "max_tokens": self.limit,
            "logprobs": 0,  # those of the drawn token alone
            "stop_token_ids": list(self.ending.ids),
            "ignore_eos": True,  # the model's own idea of it may be another
        }
        if self.spare:
            known["logit_bias"] = {str(i): -100.0 for i in self.spare}
        if self.ending.texts:  # vLLM may find them a little later than samples_of, never to be longer than needed
            known |= {"stop": list(self.ending.texts), "include_stop_str_in_output": True}
        return known


class SamplerLost(ServiceError):
    """vLLM does not answer, or is not the one that was given the weights."""


class Backend(Protocol):
    """Where vLLM runs. All processes call the same methods in the same order, but for complete.

    ranks    consecutive processes that sample the same prompts together
    at_once  whether complete may be called by several threads at a time
    """

    ranks: int
    at_once: bool

    def load(self, lm: nn.Module) -> None:
        """Sample with these weights from now on. Raises SamplerLost."""

    def session(self) -> AbstractContextManager[None]:
        """What complete is called within, as often as one likes: all of it is by the same weights, or SamplerLost."""

    def complete(
        self,
        prompts: list[list[int]],
        seeds: list[int],
        limits: list[int] | None = None,
        ended: Callable[[int, list[int]], None] | None = None,
    ) -> list[Completion]:
        """Complete this process's prompts, with at most so many tokens each. Raises SamplerLost.

        ended  is told number and ids of each once it is there, in any thread; only a server has it
        """

    def wait(self) -> None:
        """Return as soon as vLLM answers again. Raises ServiceError when it does not."""

    def close(self) -> None:
        """Let go of it."""


class VLLMSampler:
    """Samples as the policy did at the last sync; a context that ends with vLLM let go of.

    Each sample's random numbers are its own key's, so that it is the same in any company, as far as vLLM's own
    rounding is.

    engine         of the policy
    sync_interval  updates after which vLLM gets the new weights
    ahead          draws that may be under way together before they are asked for
    """

    def __init__(
        self,
        engine: Engine,
        backend: Backend,
        *,
        pad_id: int,
        ending: Ending,
        temperature: float,
        sync_interval: int,
        ahead: int = 1,
    ):
        self.engine, self.backend = engine, backend
        self.pad_id, self.ending, self.temperature = pad_id, ending, temperature
        self.sync_interval = sync_interval
        self.behind = sync_interval  # updates that vLLM has not seen; at first, none of the weights
        self.updates = 0  # that the policy has had
        self.draws = Draws(ahead)
        self.closed = False

    def __enter__(self) -> "VLLMSampler":
        return self

    def __exit__(self, *_) -> None:
        self.closed = True
        self.draws.close()
        self.backend.close()

    def generate(self, prompts: list[list[int]], keys: list[Key], ended: Ended | None = None) -> Samples:
        """Complete each prompt; every process gets all completions, in the prompts' order.

        ended  is told each completion of this process once it is there, in any thread; anew where vLLM was lost

        Evaluations are of the weights of now, whatever the interval: vLLM gets them first if it is behind at all.
        When vLLM is lost, it is waited for and given the weights again. Raises ServiceError when it does not come back,
        or fails again and again.
        """
        parts, staleness = self.parts_of(keys, self.own_part(prompts, keys, ended))
        samples = samples_of(self.completions(parts), self.pad_id, self.ending, plain_lm(self.engine.model).device)
        return replace(samples, staleness=staleness)

    def play(self, player: EpisodePlayer, rows: list[dict], keys: list[Key]) -> Samples:
        """As Player.play; every process plays a part of the episodes and gets all.

        vLLM gets the weights once, around all turns. Where it is lost, all episodes are played again from their
        beginning with it once it is found; otherwise as generate.
        """
        parts, staleness = self.parts_of(keys, self.own_episodes(player, rows, keys))
        parts = [part for part in parts if part is not None]
        samples = gathered_samples(parts, self.pad_id, plain_lm(self.engine.model).device)
        return replace(samples, staleness=staleness)

    def begin(self, prompts: list[list[int]], keys: list[Key]) -> None:
        """Begin in the background what generate will be asked for with these keys, with the weights of now."""
        self.begin_job(keys, self.own_part(prompts, keys))

    def begin_to_play(self, player: EpisodePlayer, rows: list[dict], keys: list[Key]) -> None:
        """Begin in the background what play will be asked for with these keys, with the weights of now."""
        ending = replace(player, stopping=lambda: self.closed or player.stopping())  # a process waits for its threads
        self.begin_job(keys, self.own_episodes(ending, rows, keys))

    def begin_job(self, keys: list[Key], job: Callable[[], Any]) -> None:
        """Begin a job of every process in the background, with the weights of now."""
        self.generate_with_retry(lambda: None)
        self.draws.begin(keys, lambda: attempt(job), self.updates - self.behind)

    def has_begun(self, key: Key) -> bool:
        """Whether the draw whose first sample has this key was begun."""
        return key in self.draws.known

    def kept(self) -> dict[str, Tensor]:
        """For a checkpoint: what was begun and not learned from, once it has come; {} where there is nothing.

        Every process takes part. What vLLM was lost on the way of is not among it, nor are episodes.
        """
        drawn = []
        for draw in self.draws:
            parts = processes.gather_results(lambda own=draw.own: outcome_of_draw(own))
            if not why_lost(parts) and not any(isinstance(part, Samples) for part in parts):
                drawn.append(DrawnAhead(draw.keys, self.completions(parts), self.updates - draw.weights))
        return packed_draws(drawn)

    def restore(self, kept: dict[str, Tensor]) -> None:
        """Take back what kept gave, before the first update."""
        for keys, completions, staleness in unpacked_draws(kept):
            self.draws.restore(keys, completions[self.own_places(len(keys))], self.updates - staleness)

    def hurry_for(self, keys: list[Key]) -> None:
        """Let what these keys are drawn for have the newest weights, if it is an evaluation."""
        if self.behind and keys[0][1] == EVALUATION:
            self.behind = self.sync_interval

    def updated(self) -> None:
        """The policy has changed by what was sampled: a checkpoint need not hold that any more."""
        self.behind += 1
        self.updates += 1
        self.draws.forget_taken()

    def parts_of(self, keys: list[Key], job: Callable[[], Any]) -> tuple[list[Any], int]:
        """What every process has for these keys, begun before or done now, and the updates since its weights."""
        self.hurry_for(keys)
        if (draw := self.draws.take(keys)) is not None:
            parts = processes.gather_results(draw.own.result)
            if not why_lost(parts):
                return parts, self.updates - draw.weights
        return self.generate_with_retry(job), self.behind

    def completions(self, parts: list[list[Completion]]) -> list[Completion]:
        """All completions, from the part of every process; those that share a copy of the model have the same."""
        return [completion for part in parts[:: self.backend.ranks] for completion in part]

    def generate_with_retry(self, job: Callable[[], Any]) -> list[Any]:
        """What the job of every process gets from a vLLM that has the weights, however often it is lost and found."""
        for _ in range(ATTEMPTS):
            reason = why_lost(processes.gather_results(lambda: attempt(self.load)))
            parts = [] if reason else processes.gather_results(lambda: attempt(job))
            reason = reason or why_lost(parts)
            if not reason:
                return parts
            processes.on_main(self.backend.wait)
            self.behind = self.sync_interval  # who comes back has the weights it was started with
        raise ServiceError(f"sampling failed {ATTEMPTS} times: {reason}")

    def load(self) -> None:
        """Give vLLM the policy's weights, if it is behind enough; what has begun is let finish. Raises SamplerLost."""
        if self.behind < self.sync_interval:
            return
        self.draws.finish()
        with self.engine.full_weights() as lm:
            self.backend.load(lm)
        self.behind = 0

    def own_part(
        self, prompts: list[list[int]], keys: list[Key], ended: Ended | None = None
    ) -> Callable[[], list[Completion]]:
        """The job of completing this process's share of the prompts, in any thread. It raises SamplerLost."""
        own = self.own_places(len(prompts))
        seeds = [seed_of(key) for key in keys[own]]

        def told(number: int, ids: list[int]) -> None:
            ids = self.ending.cut(ids) if self.ending.texts else ids  # as samples_of has them
            ended(own.start + number, ids, self.ending.finished(ids))

        def complete() -> list[Completion]:
            with self.backend.session():
                return self.backend.complete(prompts[own], seeds, **({"ended": told} if ended else {}))

        return complete

    def own_places(self, count: int) -> slice:
        """Which of so many completions this process samples."""
        ranks = self.backend.ranks
        return slice_of(count, processes.size() // ranks, processes.rank() // ranks)

    def own_episodes(self, player: EpisodePlayer, rows: list[dict], keys: list[Key]) -> Callable[[], Samples | None]:
        """The job of playing this process's share of the episodes, in any thread. It raises SamplerLost."""
        own, turns = slice_of(len(rows)), VLLMTurns(self.backend, self.pad_id, self.ending, self.engine.model)

        def play() -> Samples | None:
            with self.backend.session():
                if own.start == own.stop:
                    return None
                return on_cpu(player.play(turns, rows[own], keys[own], self.backend.at_once))

        return play


@dataclass(frozen=True)
class VLLMTurns:
    """Samples the turns of one process's episodes with vLLM, within a session of it; no other process takes part."""

    backend: Backend
    pad_id: int
    ending: Ending
    lm: nn.Module

    def generate(self, prompts: list[list[int]], keys: list[Key], limits: list[int]) -> Samples:
        """Complete each prompt, with at most so many tokens. Raises SamplerLost."""
        completions = self.backend.complete(prompts, [seed_of(key) for key in keys], limits)
        return samples_of(completions, self.pad_id, self.ending, torch.device("cpu"))


class Lost(NamedTuple):
    """What a job gets from a vLLM that is lost."""

    reason: str


def attempt(job: Callable[[], Any]) -> Any:
    """What a job returns, or that vLLM was lost on the way."""
    try:
        return job()
    except SamplerLost as error:
        return Lost(str(error))


def outcome_of_draw(own: Future) -> Any:
    """What has come of a job in the background, once it is done; Lost where it failed, which who takes it is told."""
    error = own.exception()
    return own.result() if error is None else Lost(str(error))


def why_lost(parts: list[Any]) -> str:
    """Why vLLM was lost to some process; "" when it was not."""
    return next((part.reason for part in parts if isinstance(part, Lost)), "")


def for_device(device: torch.device) -> dict[str, Any]:
    """Settings of vLLM's that depend on the kind of device.

    On a CPU it cannot put the random numbers back of a sample whose prompt it has read in parts, so none may be.
    """
    return {} if device.type == "cuda" else {"enforce_eager": True, "enable_chunked_prefill": False}


def lora_room(r: int) -> int:
    """The smallest rank vLLM has room for that an adapter of rank r fits. Raises InputError."""
    rooms = [room for room in LORA_RANKS if room >= r]
    if not rooms:
        raise InputError(f"--lora_r {r}: vLLM takes adapters up to rank {LORA_RANKS[-1]}; lower it, or --rollout hf")
    return rooms[0]


def seed_of(key: Key) -> int:
    """A seed for vLLM from a sample's key."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def samples_of(completions: list[Completion], pad_id: int, ending: Ending, device: torch.device) -> Samples:
    """Completions as tensors on a device; log-probabilities that are not known are nan."""
    if ending.texts:
        completions = [Completion(ids := ending.cut(one.ids), one.logprobs[: len(ids)]) for one in completions]
    ids = pad_right([completion.ids for completion in completions], pad_id)
    lengths = torch.tensor([len(completion.ids) for completion in completions])
    logprobs = torch.zeros(ids.shape)
    for row, completion in zip(logprobs, completions, strict=True):
        row[: len(completion.logprobs)] = torch.tensor([nan if one is None else one for one in completion.logprobs])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).float()
    finished = torch.tensor([ending.finished(completion.ids) for completion in completions])
    return Samples(*(tensor.to(device) for tensor in (ids, mask, logprobs, finished)))

"""One thread that decodes all answers: those that wait join the others between two tokens."""

import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from easyrlhf.rollout.decode_batch import PREFILL_TOKENS, DecodeBatch, prefill
from easyrlhf.rollout.onednn_linear import blocked_weights
from easyrlhf.rollout.sampler import draw_shaped
from easyrlhf.rollout.shape import SamplingShape
from easyrlhf.serve.models import Served

PATIENCE = 10.0  # seconds that closing waits for the token at hand


class Busy(Exception):
    """More answers wait than may."""


class Stopped(Exception):
    """The server ends."""


class Drawn(NamedTuple):
    """A token with its log-probability under the model's own distribution, and the likeliest tokens with theirs."""

    token: int
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclass(eq=False)
class Sample:
    """One answer to be decoded.

    prompt     token ids
    key        what its random numbers are drawn from, as HFSampler.generate takes it
    limit      most tokens
    likeliest  tokens whose log-probabilities are wanted beside its own; None: not even those
    take       is told each token, and whether it is the last one that may be; returns whether the answer ends
    fail       is told why there will be no more
    gone       whether nobody waits for it any more
    """

    prompt: list[int]
    key: tuple[int, ...]
    limit: int
    temperature: float
    shape: SamplingShape
    likeliest: int | None
    take: Callable[[Drawn, bool], bool]
    fail: Callable[[Exception], None]
    said: list[int] = field(default_factory=list)
    gone: bool = False

    def __post_init__(self):
        self.uniforms = np.random.default_rng(self.key)  # which gives one by one what it gives at once


class Group:
    """The answers of one model.

    running  those being decoded; its rows are their numbers
    """

    def __init__(self, served: Served, batch_size: int):
        self.served, self.batch_size = served, batch_size
        self.waiting: deque[Sample] = deque()
        self.running = DecodeBatch()
        self.samples: dict[int, Sample] = {}
        self.numbers = count()

    def __len__(self) -> int:
        return len(self.waiting) + len(self.samples)

    def step(self, admitted: Sequence[Sample]) -> None:
        """Let samples join, and draw a token for every one."""
        self.served.use()
        self._leave()
        if admitted:
            numbers = [next(self.numbers) for _ in admitted]
            self.samples.update(zip(numbers, admitted, strict=True))
            newcomers = prefill(self.served.lm, [sample.prompt for sample in admitted])
            self.running.join([newcomer._replace(row=numbers[newcomer.row]) for newcomer in newcomers])
        if len(self.running):
            self._draw()

    def _leave(self) -> None:
        """Free the places of those whom nobody waits for."""
        gone = torch.tensor([self.samples[row].gone for row in self.running.rows.tolist()], dtype=torch.bool)
        if gone.any():
            for row in self.running.rows[gone].tolist():
                del self.samples[row]
            self.running.leave(gone)

    def _draw(self) -> None:
        logits = self.running.logits(self.served.lm)
        rows = self.running.rows.tolist()
        samples = [self.samples[row] for row in rows]
        tokens = drawn(logits, samples)
        ended = torch.zeros(len(samples), dtype=torch.bool)
        said = token_logprobs_asked(logits, samples, tokens)
        for place, (row, sample, one) in enumerate(zip(rows, samples, said, strict=True)):
            sample.said.append(one.token)
            last = len(sample.said) == sample.limit
            if sample.gone or sample.take(one, last):
                ended[place] = True
                del self.samples[row]
        self.running.go_on(tokens, ended)

    def give_up(self, error: Exception, *, waiting: bool) -> None:
        """Tell those being decoded, and those who wait where they are meant too, that there is no more."""
        lost = [*self.samples.values(), *(self.waiting if waiting else ())]
        if waiting:
            self.waiting.clear()
        self.samples, self.running = {}, DecodeBatch()
        for sample in lost:
            sample.fail(error)


def drawn(logits: Tensor, samples: list[Sample]) -> Tensor:
    """A token for each sample, by its own settings and its own random numbers.

    logits   [n, V]
    returns  [n]
    """
    tokens = torch.empty(len(samples), dtype=torch.long)
    kinds: dict[tuple[float, SamplingShape], list[int]] = {}
    for place, sample in enumerate(samples):
        kinds.setdefault((sample.temperature, sample.shape), []).append(place)
    for (temperature, shape), places in kinds.items():
        own = [samples[place] for place in places]
        uniforms = torch.tensor([sample.uniforms.random() for sample in own], dtype=torch.float64)
        found, _ = draw_shaped(
            logits[places], uniforms, temperature, shape, lambda own=own: [one.prompt + one.said for one in own]
        )
        tokens[places] = found.cpu()
    return tokens


def token_logprobs_asked(logits: Tensor, samples: list[Sample], tokens: Tensor) -> list[Drawn]:
    """Each token, with the log-probabilities that its sample asks for.

    logits  [n, V]
    tokens  [n]
    """
    said = [Drawn(token) for token in tokens.tolist()]
    places = [place for place, sample in enumerate(samples) if sample.likeliest is not None]
    if not places:
        return said
    logprobs = logits[places].log_softmax(-1).cpu()
    for row, place in zip(logprobs, places, strict=True):
        token, values = said[place].token, row
        best = values.topk(samples[place].likeliest)
        likeliest = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        said[place] = Drawn(token, values[token].item(), likeliest)
    return said


class DecodeEngine:
    """Decodes the answers of all models, a token of each model in turn, in a thread of its own.

    batch_size   answers of a model that are decoded together
    max_waiting  answers that may wait
    """

    def __init__(self, models: Sequence[Served], batch_size: int, max_waiting: int):
        self.groups = {served.id: Group(served, batch_size) for served in models}
        self.max_waiting = max_waiting
        self.changed = threading.Condition()
        self.closing = False
        self.thread = threading.Thread(target=self._run, name="decoding", daemon=True)

    def start(self) -> None:
        """Begin to decode."""
        self.thread.start()

    def submit(self, model: str, samples: list[Sample]) -> None:
        """Have answers decoded when their turn comes. Raises Busy when too many wait, Stopped when the server ends."""
        with self.changed:
            if self.closing:
                raise Stopped
            if self.waiting() + len(samples) > self.max_waiting:
                raise Busy
            self.groups[model].waiting.extend(samples)
            self.changed.notify()

    def waiting(self) -> int:
        """How many answers wait for their turn."""
        return sum(len(group.waiting) for group in self.groups.values())

    def leave(self, samples: list[Sample]) -> None:
        """Nobody waits for these any more: their places are free."""
        with self.changed:
            for sample in samples:
                sample.gone = True
            for group in self.groups.values():
                group.waiting = deque(sample for sample in group.waiting if not sample.gone)

    def close(self) -> None:
        """Stop decoding; whoever still waits is told."""
        with self.changed:
            self.closing = True
            self.changed.notify()
        if self.thread.is_alive():
            self.thread.join(PATIENCE)

    def _run(self) -> None:
        with ExitStack() as stack, torch.no_grad():
            for lm in {id(group.served.lm): group.served.lm for group in self.groups.values()}.values():
                stack.enter_context(blocked_weights(lm))
            while self._work_there():
                for group in self.groups.values():
                    self._step(group)
        for group in self.groups.values():
            group.give_up(Stopped("the server is stopping"), waiting=True)

    def _work_there(self) -> bool:
        """Wait until there is something to decode; False when the server ends."""
        with self.changed:
            while not self.closing and not any(map(len, self.groups.values())):
                self.changed.wait()
            return not self.closing

    def _step(self, group: Group) -> None:
        """A token for every answer of a model; what goes wrong ends these answers alone."""
        with self.changed:
            admitted = self._admitted(group)
        if not admitted and not group.samples:
            return
        try:
            group.step(admitted)
        except Exception as error:  # out of memory, say
            traceback.print_exc(file=sys.stderr)
            for sample in admitted:
                if sample not in group.samples.values():
                    sample.fail(error)
            group.give_up(error, waiting=False)

    def _admitted(self, group: Group) -> list[Sample]:
        """Those whose turn it is: as many as fit, and not so many new prompts that the others would wait long."""
        found: list[Sample] = []
        tokens, free = 0, group.batch_size - len(group.samples)
        while group.waiting and len(found) < free:
            sample = group.waiting[0]
            tokens += len(sample.prompt) * all(sample.prompt is not one.prompt for one in found)
            if found and tokens > PREFILL_TOKENS:
                break
            found.append(group.waiting.popleft())
        return found

"""Sampling completions: plain softmax at a temperature, reproducible whatever the batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from easyrlhf.models.parts import evaluating, plain_lm
from easyrlhf.rollout.decode_batch import DecodeBatch, DecodeStep, prefill
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.fixed_decode import FixedBatch, Slots, cuda_graph, decodes_fixed, fixed_steps
from easyrlhf.rollout.inverse_cdf import draw_tokens
from easyrlhf.rollout.onednn_linear import blocked_weights
from easyrlhf.rollout.shape import NO_SHAPE, SamplingShape

TRAINING, EVALUATION, START = 0, 1, 2  # what a sample is for: the part of its key after the seed


@dataclass(frozen=True)
class Samples:
    """Completions of a list of prompts, in its order.

    completion_ids   [B, T]  right-padded; T is the longest completion
    completion_mask  [B, T]  1 through the token that ended it
    logprobs         [B, T]  of the tokens as they were drawn; 0 on padding
    finished         [B]     whether the completion came to an end by itself
    action_mask      [B, T]  1 on tokens that were sampled; None where all were
    episodes         [B]     what became of each beside its tokens; None without an environment
    staleness        updates of the policy since the weights that they were drawn with
    """

    completion_ids: Tensor
    completion_mask: Tensor
    logprobs: Tensor
    finished: Tensor
    action_mask: Tensor | None = None
    episodes: list[Any] | None = None
    staleness: int = 0


Ended = Callable[[int, list[int], bool], None]  # number, ids and whether finished of a completion that is there


class Sampler(Protocol):
    """What samples: prompts in, completions out.

    pad_id       the padding token
    temperature  what logits are divided by
    """

    pad_id: int
    temperature: float

    def generate(self, prompts: list[list[int]], keys: list[tuple[int, ...]]) -> Samples:
        """Complete each prompt; its random numbers are drawn from its key."""


@dataclass(frozen=True)
class HFSampler:
    """Samples with a causal language model of transformers, in this process.

    Tokens are drawn by inverting the cumulative distribution at a uniform number that depends on the
    sample's key and the position alone, so results do not change with batch size, order or company.

    lm              any whose cache holds keys and values of all tokens; those with recurrent states are not such
    max_new_tokens  at least 1
    batch_size      completions decoded at a time; as one ends, the next prompt takes its place
    shape           what is drawn from in place of the model's own distribution
    """

    lm: nn.Module
    pad_id: int
    ending: Ending
    max_new_tokens: int
    temperature: float
    batch_size: int
    shape: SamplingShape = NO_SHAPE

    @torch.no_grad()
    def generate(
        self,
        prompts: list[list[int]],
        keys: list[tuple[int, ...]],
        limits: list[int] | None = None,
        ended: Ended | None = None,
    ) -> Samples:
        """Complete each prompt until its answer ends or has max_new_tokens.

        prompts  token ids; one that stands there several times is read once
        keys     what each sample's random numbers are drawn from, e.g. (seed, step, prompt, sample); integers >= 0
        limits   most tokens of each answer, where that is fewer; a shorter answer is the beginning of a longer one
        ended    is told each completion once it is there
        """
        shape = len(prompts), self.max_new_tokens
        ids, lengths = torch.full(shape, self.pad_id), torch.zeros(len(prompts), dtype=torch.long)
        logprobs = torch.zeros(shape, dtype=torch.promote_types(plain_lm(self.lm).dtype, torch.float32))
        with blocked_weights(self.lm):  # reordered once for hundreds of passes of a few rows
            for step in self._steps(prompts, keys, limits):
                ids[step.rows, step.places] = step.tokens
                logprobs[step.rows, step.places] = step.logprobs
                lengths[step.rows] = step.places + 1
                for row in step.rows[step.ended].tolist() if ended else ():
                    answer = ids[row, : lengths[row]].tolist()
                    ended(row, answer, self.ending.finished(answer))
        longest, device = int(lengths.max()), plain_lm(self.lm).device
        said = zip(ids.tolist(), lengths.tolist(), strict=True)
        finished = torch.tensor([self.ending.finished(row[:length]) for row, length in said])
        mask = (torch.arange(longest) < lengths[:, None]).float()
        return Samples(*(t.to(device) for t in (ids[:, :longest], mask, logprobs[:, :longest], finished)))

    @torch.no_grad()
    def stream(self, prompt: list[int], key: tuple[int, ...]) -> Iterator[int]:
        """The tokens that generate would give this prompt, each as soon as it is drawn."""
        for step in self._steps([prompt], [key]):
            yield from step.tokens.tolist()

    def _captures(self, longest_prompt: int) -> bool:
        """Whether steps become CUDA graphs; shapes other than the model's own look at what was said before."""
        on_gpu = plain_lm(self.lm).device.type == "cuda" and not self.shape.changes
        return on_gpu and decodes_fixed(self.lm, longest_prompt + self.max_new_tokens)

    def _steps(
        self, prompts: list[list[int]], keys: list[tuple[int, ...]], limits: list[int] | None = None
    ) -> Iterator[DecodeStep]:
        """Draw one token after another for as many prompts at a time as fit."""
        most = torch.tensor(limits or [self.max_new_tokens] * len(prompts)).clamp(max=self.max_new_tokens)
        # 1. All random numbers at once, a row a sample: what is drawn then depends on nothing but key and place.
        uniforms = torch.tensor(np.stack([np.random.default_rng(key).random(self.max_new_tokens) for key in keys]))
        said: list[list[int]] = [[] for _ in prompts]
        with evaluating(self.lm):
            if self._captures(max(map(len, prompts))):
                slots = Slots.empty(min(self.batch_size, len(prompts)), self.max_new_tokens, plain_lm(self.lm).device)
                batch = FixedBatch(self.lm, slots, self.ending.ids, self.temperature, cuda_graph)
                yield from fixed_steps(batch, prompts, uniforms, most, self.ending)
                return
            waiting, running = prefill(self.lm, prompts), DecodeBatch()
            while True:
                # 2. Fill up: a slot that became free takes the next prompt, so that no pass runs half empty.
                if newcomers := list(islice(waiting, self.batch_size - len(running))):
                    running.join(newcomers)
                if not len(running):
                    return
                # 3. One pass for everybody's next token.
                logits, rows = running.logits(self.lm), running.rows.tolist()
                drawn = draw_shaped(
                    logits,
                    uniforms[running.rows, running.drawn],
                    self.temperature,
                    self.shape,
                    lambda rows=rows: [prompts[row] + said[row] for row in rows],
                )
                tokens, logprobs = (tensor.cpu() for tensor in drawn)
                # 4. Who is done: by an end token, by length, or by a text, which may end within a token.
                ended = self.ending.by_token(tokens) | (running.drawn + 1 == most[running.rows])
                for place, (row, token) in enumerate(zip(rows, tokens.tolist(), strict=True)):
                    said[row].append(token)
                    ended[place] |= self.ending.by_text(said[row])
                yield DecodeStep(running.rows, running.drawn, tokens, logprobs, ended)
                running.go_on(tokens, ended)


def draw_shaped(
    logits: Tensor, uniforms: Tensor, temperature: float, shape: SamplingShape, seen: Callable[[], list[list[int]]]
) -> tuple[Tensor, Tensor]:
    """Draw as draw_tokens does, from the distribution of that shape.

    seen  gives what SamplingShape is called with; asked where the shape changes anything
    """
    if shape.changes:
        logits = shape(logits, seen(), temperature)
        temperature = 1.0 if temperature else 0.0  # it is in the logits already
    return draw_tokens(logits, uniforms, temperature)

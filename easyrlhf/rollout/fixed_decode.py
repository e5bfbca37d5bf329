"""Decoding on a GPU: nothing changes its place or size, so that a step is a graph which the host only starts.

A pass over a few rows keeps a GPU busy for less time than Python takes to ask for it. So tokens, places and ends stay
on the device, the host looks at them every few tokens, and what happens between is captured once as a CUDA graph. The
loop for CPUs is what this one is held to: the same keys draw the same tokens.
"""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from easyrlhf.models.parts import evaluating, plain_lm, without_spare
from easyrlhf.models.prefix_sharing import sees_all, tolerance
from easyrlhf.rollout.decode_batch import DecodeStep, PrefilledPrompt, prefill
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.fixed_cache import FixedCache
from easyrlhf.rollout.inverse_cdf import draw_tokens

LOOK = 8  # tokens between two looks of the host; samples that have ended wait as long
ROOM = 256  # columns that the cache grows by, each time with a new graph
EAGER = 2  # steps before one is captured: what libraries allocate and choose in their first must not be part of it
PROBE = [3, 2, 1, 3]

Step = Callable[[], None]
Capture = Callable[[Step], Step]  # a step → what repeats it


class Slots(NamedTuple):
    """What the device knows of n slots, changed in place; all of them take part in every step, empty ones for nothing.

    tokens    [n]               the last token of each, not yet in the cache
    places    [n]               the column of the cache where that belongs
    drawn     [n]               tokens that the sample has got
    most      [n]               tokens that it may have
    ended     [n]               whether it has come to its end, or the slot is empty
    uniforms  [n, longest + 1]  the random numbers that its tokens are drawn by
    """

    tokens: Tensor
    places: Tensor
    drawn: Tensor
    most: Tensor
    ended: Tensor
    uniforms: Tensor

    @classmethod
    def empty(cls, count: int, longest: int, device: torch.device) -> "Slots":
        """So many slots that nobody is in."""
        numbers = (torch.zeros(count, dtype=torch.long, device=device) for _ in range(4))
        ended = torch.ones(count, dtype=torch.bool, device=device)
        return cls(*numbers, ended, torch.zeros(count, longest + 1, dtype=torch.float64, device=device))


class Seen(NamedTuple):
    """What happened in the steps since the host last looked, each [LOOK, n].

    turn    [1]  the step that comes next
    counts       whether a slot's sample got this token, or had ended before
    """

    turn: Tensor
    tokens: Tensor
    logprobs: Tensor
    counts: Tensor

    @classmethod
    def nothing(cls, count: int, dtype: torch.dtype, device: torch.device) -> "Seen":
        """Before the first step; log-probabilities will be of that type."""
        turn = torch.zeros(1, dtype=torch.long, device=device)
        kinds = (torch.long, dtype, torch.bool)
        return cls(turn, *(torch.zeros(LOOK, count, dtype=kind, device=device) for kind in kinds))


class FixedBatch:
    """Samples being decoded, each in a slot.

    What the host knows of each slot without asking the device:
    rows     [n]  number of its sample among the prompts, or EMPTY
    reached  [n]  column of the cache that it has come to
    drawn    [n]  tokens that its sample has got
    most     [n]  tokens that it may have
    """

    EMPTY = -1

    def __init__(self, lm: nn.Module, slots: Slots, end_ids: tuple[int, ...], temperature: float, capture: Capture):
        self.lm, self.temperature, self.capture = lm, temperature, capture
        self.dtype = torch.promote_types(plain_lm(lm).dtype, torch.float32)
        self.ends = torch.tensor(end_ids)  # as the host looks at them
        self.end_ids = self.ends.to(slots.tokens.device)
        self.cache = FixedCache(0, slots.places)
        self.rows = torch.full((len(slots.tokens),), self.EMPTY)
        self.reached, self.drawn, self.most = torch.zeros(3, len(self.rows), dtype=torch.long)
        self.settle(slots)

    def settle(self, slots: Slots, room: int = 0) -> None:
        """Work with these slots from now on: what was captured before is of others."""
        self.slots, self.seen = slots, Seen.nothing(len(slots.tokens), self.dtype, slots.tokens.device)
        self.columns = torch.arange(room, device=slots.tokens.device)
        self.repeat, self.eager = self.step, EAGER

    @property
    def running(self) -> Tensor:
        """Which slots are taken.  [n]"""
        return self.rows != self.EMPTY

    def step(self) -> None:
        """Draw the next token in every slot. Nothing here makes the host wait; what stays is written in place."""
        slots, seen = self.slots, self.seen
        logits = self.lm(
            input_ids=slots.tokens[:, None],
            attention_mask=(self.columns <= slots.places[:, None])[:, None, None],
            position_ids=slots.places[:, None],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        logits = without_spare(self.lm, logits.to(self.dtype))
        uniforms = slots.uniforms.gather(1, slots.drawn[:, None]).squeeze(1)
        tokens, logprobs = draw_tokens(logits, uniforms, self.temperature)
        going = ~slots.ended
        for kept, new in zip(seen[1:], (tokens, logprobs, going), strict=True):
            kept.index_copy_(0, seen.turn, new[None])
        seen.turn.add_(1)
        slots.tokens.copy_(tokens)
        slots.drawn.add_(going)
        slots.places.add_(going)
        slots.ended.logical_or_(torch.isin(tokens, self.end_ids) | (slots.drawn >= slots.most))

    def join(self, newcomers: list[PrefilledPrompt], uniforms: Tensor, most: Tensor) -> None:
        """Take samples in.

        uniforms, most  of every sample, by its number: [prompts, longest], [prompts]
        """
        if not newcomers:
            return
        self.have_room(max(len(new.prompt) for new in newcomers))
        by_cache: dict[int, list[tuple[int, PrefilledPrompt]]] = defaultdict(list)
        for slot, new in zip((~self.running).nonzero().squeeze(1).tolist(), newcomers, strict=False):
            by_cache[id(new.cache)].append((slot, new))
        for filled in by_cache.values():  # whose prompts were read together are copied together
            places, news = torch.tensor([slot for slot, _ in filled]), [new for _, new in filled]
            rows, lengths = torch.tensor([new.row for new in news]), torch.tensor([len(new.prompt) - 1 for new in news])
            self.cache.put(places, news[0].cache, torch.tensor([new.place for new in news]), int(lengths.max()))
            self.rows[places], self.reached[places], self.drawn[places], self.most[places] = (
                rows,
                lengths,
                0,
                most[rows],
            )
            last, none = torch.tensor([new.prompt[-1] for new in news]), torch.zeros(len(news), dtype=torch.long)
            begun = Slots(last, lengths, none, most[rows], none.bool(), nn.functional.pad(uniforms[rows], (0, 1)))
            there = places.to(self.slots.tokens.device)
            for held, new in zip(self.slots, begun, strict=True):
                held[there] = new.to(there.device)

    def look(self) -> Iterator[tuple[Tensor, DecodeStep]]:
        """Take some steps; gives what each of them brought, and in which slots."""
        count = min(LOOK, int((self.most - self.drawn).max()))
        self.have_room(int(self.reached.max()) + count + 1)
        self.seen.turn.zero_()
        for _ in range(count):
            self.take_step()
        tokens, logprobs, counts = (tensor[:count].cpu() for tensor in self.seen[1:])
        drawn, got = self.drawn, counts.sum(0)
        self.drawn, self.reached = drawn + got, self.reached + got
        for turn, who in enumerate(counts):
            slots = who.nonzero().squeeze(1)
            places, said = drawn[slots] + turn, tokens[turn, slots]
            ended = torch.isin(said, self.ends) | (places + 1 >= self.most[slots])
            yield slots, DecodeStep(self.rows[slots], places, said, logprobs[turn, slots], ended)

    def take_step(self) -> None:
        """A step: the first ones as Python says, the others as they were captured."""
        self.repeat()
        self.eager -= 1
        if self.eager == 0:
            self.repeat = self.capture(self.step)

    def leave(self, stopped: Tensor) -> None:
        """Let samples go that have ended, and those that the host has found at their end.  [n]"""
        ended = stopped | self.slots.ended.cpu()
        self.rows[ended] = self.EMPTY
        self.reached[ended] = self.drawn[ended] = self.most[ended] = 0
        self.slots.ended.copy_(ended)
        self.slots.places.masked_fill_(self.slots.ended, 0)  # what an empty slot writes must be overwritten later

    def have_room(self, room: int) -> None:
        """Have so many columns or more."""
        if room > self.cache.room:
            everyone = torch.arange(len(self.rows))
            self.resize(everyone, -(-room // ROOM) * ROOM)

    def shrink(self) -> None:
        """Give up empty slots, half of all at a time: each size has its own graph."""
        count = len(self.rows)
        while count > 1 and int(self.running.sum()) <= count // 2:
            count = -(-count // 2)
        if count < len(self.rows):
            self.resize(self.running.long().sort(descending=True, stable=True).indices[:count], self.cache.room)

    def resize(self, kept: Tensor, room: int) -> None:
        """Keep these slots, with so many columns."""
        slots = Slots(*(tensor[kept.to(tensor.device)] for tensor in self.slots))
        self.cache.resize(kept, room, slots.places)
        self.rows, self.reached = self.rows[kept], self.reached[kept]
        self.drawn, self.most = self.drawn[kept], self.most[kept]
        self.settle(slots, room)


def fixed_steps(
    batch: FixedBatch, prompts: list[list[int]], uniforms: Tensor, most: Tensor, ending: Ending
) -> Iterator[DecodeStep]:
    """Draw one token after another for as many prompts at a time as the batch has slots.

    uniforms  [prompts, longest]  the random numbers of each
    most      [prompts]           tokens that each may get
    """
    waiting = prefill(batch.lm, prompts)
    said: list[list[int]] = [[] for _ in prompts]
    while True:
        batch.join(list(islice(waiting, int((~batch.running).sum()))), uniforms, most)
        if not batch.running.any():
            return
        batch.shrink()
        stopped = torch.zeros(len(batch.rows), dtype=torch.bool)
        for slots, step in batch.look():
            if ending.texts:  # which the host alone can read: what was drawn behind them is left out
                going = ~stopped[slots]
                slots, step = slots[going], DecodeStep(*(part[going] for part in step))
                for slot, row, token in zip(slots.tolist(), step.rows.tolist(), step.tokens.tolist(), strict=True):
                    said[row].append(token)
                    stopped[slot] = ending.by_text(said[row])
                step = step._replace(ended=step.ended | stopped[slots])
            yield step
        batch.leave(stopped)


def cuda_graph(step: Step) -> Step:
    """The step as a graph of the present GPU; itself, with a warning, where it does what no graph can hold."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        warnings.warn(f"decoding without a CUDA graph, which takes longer: {error}", stacklevel=2)
        return step
    return graph.replay


def decodes_fixed(lm: nn.Module, longest: int) -> bool:
    """Whether a model's rows can be decoded so: by attention that sees all, with the numbers of whole rows.

    longest  tokens of the longest prompt with its answer
    """
    return sees_all(plain_lm(lm).config, longest) and same_as_whole(lm)


@torch.no_grad()
def same_as_whole(lm: nn.Module) -> bool:
    """Whether two tokens decoded in a fixed cache have the log-probabilities that a pass over the whole row gives."""
    device, prompts, most = plain_lm(lm).device, [PROBE, PROBE[:2]], torch.tensor([2, 2])
    with evaluating(lm):
        try:
            batch = FixedBatch(lm, Slots.empty(2, 2, device), (), 1.0, lambda step: step)
            steps = list(fixed_steps(batch, prompts, torch.full((2, 2), 0.5, dtype=torch.float64), most, Ending(())))
        except (TypeError, ValueError, RuntimeError) as error:
            warnings.warn(f"decoding as on a CPU, which takes longer: {error}", stacklevel=2)
            return False
        found, wanted = [], []
        for row, prompt in enumerate(prompts):
            tokens = [step.tokens[step.rows == row].item() for step in steps]
            whole = lm(input_ids=torch.tensor([prompt + tokens], device=device), use_cache=False).logits[0]
            logprobs = without_spare(lm, whole.float()).log_softmax(-1)[len(prompt) - 1 : -1].cpu()
            wanted.append(logprobs.gather(1, torch.tensor(tokens)[:, None]).squeeze(1))
            found.append(torch.cat([step.logprobs[step.rows == row].float() for step in steps]))
    ours, theirs = torch.cat(found), torch.cat(wanted)
    return bool((ours - theirs).norm() <= tolerance(plain_lm(lm).dtype) * theirs.norm())

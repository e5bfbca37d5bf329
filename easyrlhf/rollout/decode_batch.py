"""The samples being decoded at a time: prompts join when there is room, the finished leave."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from easyrlhf.data.batches import pad_right, within_budget
from easyrlhf.models.flat_rows import sent
from easyrlhf.models.parts import backbone, plain_lm, without_spare
from easyrlhf.rollout.slot_cache import CHUNK, SlotCache

PREFILL_TOKENS = 1024  # of one forward pass over prompts; more make it no faster, on a CPU they make it slower
ON_GPU = 16384  # the same where fewer leave the device waiting for Python


class PrefilledPrompt(NamedTuple):
    """A sample whose prompt has been read, but for its last token.

    row     its number among the prompts
    prompt  ids
    cache   keys and values of the prompt
    place   its row in that cache, which may go on behind the prompt
    """

    row: int
    prompt: list[int]
    cache: Cache
    place: int


class DecodeStep(NamedTuple):
    """A token each for the n samples that are being decoded, on the CPU.

    rows      [n]  whose token it is
    places    [n]  its place in the completion
    tokens    [n]
    logprobs  [n]
    ended     [n]  whether it is the last one
    """

    rows: Tensor
    places: Tensor
    tokens: Tensor
    logprobs: Tensor
    ended: Tensor


def prefill(lm: nn.Module, prompts: list[list[int]]) -> Iterator[PrefilledPrompt]:
    """Read each distinct prompt once, the longest first, some at a time; all samples of a prompt share its cache."""
    # Generations of one prompt read it once, wherever they stand among the prompts.
    samples: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        samples.setdefault(tuple(prompt), []).append(row)
    distinct = [(prompts[rows[0]], rows) for rows in samples.values()]
    for group in within_budget([len(prompt) for prompt, _ in distinct], prefill_tokens(plain_lm(lm).device.type)):
        cache = DynamicCache()
        # Without its last token: decoding reads that one, so that its first pass is like all others.
        before_last = [distinct[number][0][:-1] for number in group]
        if before_last[0]:
            # filled up with any token: attention is causal, and nobody takes over what lies behind a prompt
            input_ids = sent(pad_right(before_last, before_last[0][0]), plain_lm(lm).device)
            backbone(lm)(input_ids=input_ids, past_key_values=cache, use_cache=True)
        for place, number in enumerate(group):
            prompt, rows = distinct[number]
            for row in rows:
                yield PrefilledPrompt(row, prompt, cache, place)


def prefill_tokens(kind: str) -> int:
    """Tokens of one forward pass over prompts on a device of this kind."""
    return ON_GPU if kind == "cuda" else PREFILL_TOKENS


class DecodeBatch:
    """Samples being decoded, each in a slot of a KV cache.

    rows    [n]  the number of each among the prompts
    drawn   [n]  tokens it has got
    starts  [n]  column of the cache where it begins
    tokens  [n]  its last token, not yet in the cache
    """

    def __init__(self):
        self.rows = self.drawn = self.starts = self.tokens = torch.empty(0, dtype=torch.long)
        self.columns = 0
        self.cache = SlotCache(0)

    def __len__(self) -> int:
        return len(self.rows)

    def join(self, newcomers: list[PrefilledPrompt]) -> None:
        """Take samples in."""
        # All samples end in the same column, however long: so one pass reads everyone's last token.
        lengths = [len(newcomer.prompt) - 1 for newcomer in newcomers]
        if not len(self):
            self.columns = max(lengths)
            self.cache = SlotCache(self.columns)
        elif (missing := max(lengths) - self.columns) > 0:
            self.cache.add_columns(missing)
            self.starts, self.columns = self.starts + missing, self.columns + missing
        places = [(new.cache, new.place, length) for new, length in zip(newcomers, lengths, strict=True)]
        self.cache.put(len(self), places)
        self.rows = torch.cat([self.rows, torch.tensor([new.row for new in newcomers])])
        self.drawn = torch.cat([self.drawn, torch.zeros(len(newcomers), dtype=torch.long)])
        self.starts = torch.cat([self.starts, self.columns - torch.tensor(lengths)])
        self.tokens = torch.cat([self.tokens, torch.tensor([new.prompt[-1] for new in newcomers])])

    def logits(self, lm: nn.Module) -> Tensor:
        """Read everyone's last token; returns the logits of the next, in float32 or better.  [n, V]"""
        # Positions are counted from each sample's own start: a sample's logits are the same in any company.
        starts = sent(self.starts, plain_lm(lm).device)[:, None]
        logits = lm(
            input_ids=sent(self.tokens, starts.device)[:, None],
            attention_mask=(torch.arange(self.columns + 1, device=starts.device) >= starts).long(),
            position_ids=self.columns - starts,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        self.columns += 1
        return without_spare(lm, logits.to(torch.promote_types(logits.dtype, torch.float32)))

    def go_on(self, tokens: Tensor, ended: Tensor) -> None:
        """Append a token to every sample, and let those that have ended leave.

        tokens, ended  [n]
        """
        self.drawn, self.tokens = self.drawn + 1, tokens
        if ended.any():
            self.leave(ended)

    def leave(self, ended: Tensor) -> None:
        """Let samples go, and move the last of those who stay to their slots: the others need not be copied.

        ended  [n]
        """
        # Slots stay gap-free, so that a pass costs what the running samples cost.
        stay = len(self) - int(ended.sum())
        slots = torch.arange(stay)
        free = ended[:stay].nonzero().squeeze(1)
        if len(free):
            slots[free] = (~ended[stay:]).nonzero().squeeze(1) + stay
            self.cache.move(slots[free], free)
        self.rows, self.drawn = self.rows[slots], self.drawn[slots]
        self.starts, self.tokens = self.starts[slots], self.tokens[slots]
        # Columns that only the longest needed, who has left, would be attended to for nothing.
        if stay and (unused := int(self.starts.min())) >= CHUNK:
            self.cache.drop_columns(unused)
            self.starts, self.columns = self.starts - unused, self.columns - unused

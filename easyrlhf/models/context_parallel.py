"""One pass over a flat row by several processes, each of which computes a part of its tokens: --context_parallel_size.

Everything in a transformer but attention treats each token alone, so every process of a group takes its own part of the
row through the model. For attention they exchange: each gets all tokens, but only its share of the heads, and gives
back what these make of the others' tokens (Ulysses: Jacobs et al. 2023, arXiv 2309.14509). What is read off the states
is a number or two a token: the process that has a token's state computes them, and all get them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig

from easyrlhf.models.parts import plain_lm


class Exchange(torch.autograd.Function):
    """Part j of every process goes to process j, which gets them in the order of the processes.  [k, …] → [k, …]"""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, group: dist.ProcessGroup) -> Tensor:
        """Send and receive."""
        ctx.group = group
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """The same way back."""
        return Exchange.apply(grad.contiguous(), ctx.group), None


class Gather(torch.autograd.Function):
    """What each process has, for all of them, one behind the other.  [n of this process, …] → [n of all, …]"""

    @staticmethod
    def forward(ctx: Any, own: Tensor, counts: list[int], group: dist.ProcessGroup) -> Tensor:
        """All get all. `counts` says how many each has."""
        ctx.group, ctx.start, ctx.count = group, sum(counts[: group.rank()]), len(own)
        padded = torch.cat([own, own.new_zeros(max(counts) - len(own), *own.shape[1:])])
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """The sum of what the losses of all processes say of the own ones."""
        total = grad.contiguous().clone()
        dist.all_reduce(total, group=ctx.group)
        return total[ctx.start : ctx.start + ctx.count], None, None


@dataclass(frozen=True)
class OfHeads:
    """What transformers' attention is told of a module, in place of it, where keys do not stand for as many queries."""

    num_key_value_groups: int
    is_causal: bool = True


@dataclass(frozen=True)
class Cut:
    """How a flat row of L tokens is cut into equal parts, one for each of k processes in their order.

    tokens  L; what the parts hold beyond that, at the end, is filled up
    """

    group: dist.ProcessGroup
    tokens: int

    @property
    def size(self) -> int:
        """Number of the processes, k."""
        return self.group.size()

    @property
    def width(self) -> int:
        """Tokens of a part, W."""
        return -(-self.tokens // self.size)

    def own(self, row: Tensor) -> Tensor:
        """This process's part of a row.  [L] → [W]"""
        padded = F.pad(row, (0, self.size * self.width - self.tokens))
        return padded.view(self.size, self.width)[self.group.rank()]

    def to_heads(self, *parts: Tensor) -> list[Tensor]:
        """All tokens of this process's share of heads, for its tokens of all heads.  [W, h, d] each → [L, h / k, d]"""
        shares = [part.unflatten(1, (self.size, -1)).flatten(2) for part in parts]  # [W, k, h / k · d]
        received = Exchange.apply(torch.cat(shares, dim=2).transpose(0, 1).contiguous(), self.group)
        rows = received.flatten(0, 1)[: self.tokens]
        split = rows.split([share.shape[2] for share in shares], dim=1)
        return [own.unflatten(1, (-1, part.shape[2])) for own, part in zip(split, parts, strict=True)]

    def to_tokens(self, states: Tensor) -> Tensor:
        """The way back: all heads of this process's tokens.  [L, h / k, d] → [W, h, d]"""
        filled = F.pad(states.flatten(1), (0, 0, 0, self.size * self.width - self.tokens))
        received = Exchange.apply(filled.view(self.size, self.width, -1), self.group)
        return received.transpose(0, 1).flatten(1).unflatten(1, (-1, states.shape[2]))

    def attend(self, module: nn.Module, row: tuple[Tensor, ...], attention: Callable[..., Tensor]) -> Tensor:
        """Attention of the whole row, of which this process has its part and computes its share of the heads.

        row        query, key, value  [W, heads, d] each; keys and values may have fewer
        attention  (module, query, key, value), [L, heads / k, d] each → [L, heads / k, d]
        returns    [W, heads, d]
        """
        query, key, value = row
        if repeats := self.repeats(query.shape[1], key.shape[1]):
            key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
            module = OfHeads(query.shape[1] // key.shape[1])
        return self.to_tokens(attention(module, *self.to_heads(query, key, value)))

    def repeats(self, heads: int, key_heads: int) -> int:
        """How often each key head is to be there, so that every process gets as many; 0 where they are enough."""
        if key_heads % self.size == 0:
            return 0
        times = range(2, heads // key_heads + 1)
        return next(n for n in times if heads // key_heads % n == 0 and key_heads * n % self.size == 0)


@dataclass(frozen=True)
class CutStates:
    """Last hidden states of a row whose parts lie on several processes.

    own  [W, H]  of this process's part
    """

    own: Tensor
    cut: Cut

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.own.device

    def read(self, rows: Tensor, head: Callable[..., Tensor], *beside: Tensor) -> Tensor:
        """As `read`: every process asks the head of its own states, and gets what all say."""
        owners, rank = rows // self.cut.width, self.cut.group.rank()
        mine = owners == rank
        found = head(self.own[rows[mine] - rank * self.cut.width], *(tensor[mine] for tensor in beside))
        counts = owners.bincount(minlength=self.cut.size).tolist()
        every = Gather.apply(found, counts, self.cut.group)
        return torch.empty_like(every).index_copy(0, owners.argsort(stable=True), every)


def read(states: Tensor | CutStates, rows: Tensor, head: Callable[..., Tensor], *beside: Tensor) -> Tensor:
    """What a head says of these rows of hidden states.

    states   [L, H]
    rows     [n]
    head     (states of some of the rows [m, H], what is `beside` of them) → [m, …]
    beside   [n, …]  each
    returns  [n, …]
    """
    if isinstance(states, CutStates):
        return states.read(rows, head, *beside)
    return head(states[rows], *beside)


def heads_of(config: PreTrainedConfig) -> int:
    """Attention heads of every layer of a model; 1 where it has none, or not as many in each."""
    heads = getattr(config.get_text_config(), "num_attention_heads", 1)
    return heads if isinstance(heads, int) else 1


def cut_of(lm: nn.Module, tokens: int) -> Cut | None:
    """How the processes cut a row of so many tokens for a model; None where each computes rows of its own.

    Those that share rows are the ones that the model's `row_group` names, which the engine gives it.
    """
    row_group = getattr(plain_lm(lm), "row_group", None)
    group = row_group and row_group()
    return group and Cut(group, tokens)

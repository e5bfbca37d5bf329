"""Attention of queries to keys: transformers' sdpa, or what is faster than it on a device."""

from inspect import signature

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from easyrlhf.engine.device import computes_bf16

BY_HAND = 512  # queries of a row up to which attention in bf16 on a CPU is computed by hand
UNKNOWN_BY_HAND = ("softcap", "position_bias", "cache")  # what sdpa may be told besides
TAKES_FEWER_KEYS = "enable_gqa" in signature(varlen_attn).parameters  # torch's does from 2.12 on


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs
) -> tuple[Tensor, None]:
    """What transformers' sdpa attention returns for these arguments.

    query       [B, heads, S, d]
    key, value  [B, heads, T, d]  they may have fewer heads, each for several of the queries'
    mask        [B, 1, S, T]      True where a query looks at a key; without one it looks at its own and all before
    returns     [B, S, heads, d], None
    """
    # What sdpa may be told besides masks is left to sdpa: computing it here would have to follow every release.
    if slow_in_sdpa(query) and all(kwargs.get(name) is None for name in UNKNOWN_BY_HAND):
        whole_rows = mask is None and query.shape[2] == key.shape[2] and kwargs.get("is_causal") is not False
        if whole_rows:
            mask = query.new_ones(query.shape[2], query.shape[2], dtype=torch.bool).tril()
        if mask is not None and mask.dtype == torch.bool:
            return attend_by_hand(query, key, value, mask, kwargs.get("scaling"), kwargs.get("dropout", 0.0)), None
    return sdpa_attention_forward(module, query, key, value, mask, **kwargs)


def slow_in_sdpa(query: Tensor) -> bool:
    """Whether torch's attention takes about twice as long as its products: bf16 on a CPU, of few queries a row."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] <= BY_HAND


def attend_by_hand(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None = None, dropout: float = 0.0
) -> Tensor:
    """Attention as two products and a softmax, which sums in float32; arguments as in `attention`.

    returns  [B, S, heads, d]
    """
    batch, heads, length, size = query.shape
    of_one_key = heads // key.shape[1]
    # Heads that share a key become rows of one product: keys are read once, not once a head.
    query = query.unflatten(1, (-1, of_one_key)).flatten(2, 3).flatten(0, 1)  # [B · key heads, of one key · S, d]
    key, value = key.flatten(0, 1), value.flatten(0, 1)
    # the lowest number, not minus infinity: a query that looks at no key, in padding, must not become NaN
    elsewhere = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, torch.finfo(query.dtype).min)
    elsewhere = elsewhere.expand(batch, heads, length, -1).reshape(len(query), query.shape[1], -1)
    scale = size**-0.5 if scaling is None else scaling
    scores = torch.baddbmm(elsewhere, query, key.transpose(1, 2), alpha=scale)
    weights = torch.nn.functional.dropout(scores.softmax(-1), dropout, training=dropout > 0)
    states = (weights @ value).unflatten(1, (of_one_key, length))  # [B · key heads, of one key, S, d]
    return states.reshape(batch, heads, length, size).transpose(1, 2).contiguous()


def packs_rows(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether attention of rows that lie one behind the other has a kernel here: a GPU from Ampere on, in half."""
    half = dtype in (torch.bfloat16, torch.float16)
    return device.type == "cuda" and half and computes_bf16(device)


def attend_packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ends: tuple[Tensor, Tensor],
    longest: tuple[int, int],
    scaling: float | None,
) -> Tensor:
    """Causal attention of each row of queries to its row of keys, by the kernel for rows of various lengths.

    Where a row has more keys than queries, those of its last query go furthest: all rows end together.

    query       [L, heads, d]  row behind row
    key, value  [M, heads, d]  they may have fewer heads, each for several of the queries'
    ends        [B + 1] each   int32: 0, and where each row of queries, of keys ends
    longest     tokens of the longest row of queries, of keys
    returns     [L, heads, d]
    """
    of_one_key = query.shape[1] // key.shape[1]
    # The window looks back without limit and not ahead: causal, within each row.
    how = {"scale": scaling, "window_size": (-1, 0)}
    if of_one_key > 1 and TAKES_FEWER_KEYS:
        how["enable_gqa"] = True
    elif of_one_key > 1:
        key, value = (tensor.repeat_interleave(of_one_key, dim=1) for tensor in (key, value))
    return varlen_attn(query, key, value, *ends, *longest, **how)

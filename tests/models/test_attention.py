"""Attention as two products and a softmax: against sums written out, and where it is used."""

import itertools
import math

import pytest
import torch
from torch import tensor as T

from easyrlhf.models import attention
from easyrlhf.models.prefix_sharing import completion_states, enable_sharing

FAMILIES = [([5, 6, 7, 8, 9, 10], [[20, 21], [22, 23, 24]]), ([11, 12, 13], [[25], [14, 15, 16, 17]])]
CAUSAL = torch.ones(5, 5, dtype=torch.bool).tril()
PADDED = T([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()[:, None, None]  # one query a row, the first row from key 2 on


@pytest.fixture
def by_hand(monkeypatch):
    """A list that fills with the queries a row of each attention that is computed by hand."""
    calls, original = [], attention.attend_by_hand

    def noted(query, *args):
        calls.append(query.shape[2])
        return original(query, *args)

    monkeypatch.setattr(attention, "attend_by_hand", noted)
    return calls


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The norm of the difference over that of what was expected."""
    return ((found - expected).float().norm() / expected.float().norm()).item()


@pytest.mark.parametrize("mask", [CAUSAL, PADDED], ids=["causal", "one query"])
@pytest.mark.parametrize("heads", [4, 2, 1], ids=["all heads", "two for four", "one for four"])
def test_attention_by_hand_is_the_sum_written_out(heads, mask):
    generator = torch.Generator().manual_seed(0)
    queries = mask.shape[-2]
    query, key, value = (
        torch.randn(2, number, length, 8, generator=generator, dtype=torch.float64)
        for number, length in ((4, queries), (heads, 5), (heads, 5))
    )
    found = attention.attend_by_hand(query, key, value, mask, scaling=0.3)
    looked_at = mask.expand(2, 1, queries, 5)
    for row, head, here in itertools.product(range(2), range(4), range(queries)):
        own = head // (4 // heads)
        keys = [there for there in range(5) if looked_at[row, 0, here, there]]
        scores = [0.3 * sum((query[row, head, here] * key[row, own, there]).tolist()) for there in keys]
        weights = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
        expected = sum(weight * value[row, own, there] for there, weight in zip(keys, weights, strict=True))
        torch.testing.assert_close(found[row, here, head], expected, rtol=0, atol=1e-12)


def test_a_bf16_model_on_a_cpu_attends_by_hand_and_says_the_same(tiny_lm, by_hand):
    lm = tiny_lm(dtype=torch.bfloat16)
    ids = T([[5, 6, 7, 8, 9, 10]])
    with torch.no_grad():
        expected = lm(input_ids=ids, use_cache=False).logits
        assert enable_sharing(lm, max_length=64)
        by_hand.clear()
        found = lm(input_ids=ids, use_cache=False).logits
    assert set(by_hand) == {6}
    assert relative(found, expected) <= 0.02  # bf16 keeps 8 bits


def test_so_do_prompts_that_are_shared_and_tokens_behind_padding(tiny_lm, by_hand):
    lm = tiny_lm(dtype=torch.bfloat16)
    ids, mask = T([[0, 5, 6, 7], [8, 9, 10, 11]]), T([[0, 1, 1, 1], [1, 1, 1, 1]])

    def last_logits() -> torch.Tensor:
        cache = lm(input_ids=ids[:, :3], attention_mask=mask[:, :3], use_cache=True).past_key_values
        return lm(input_ids=ids[:, 3:], attention_mask=mask, past_key_values=cache).logits

    with torch.no_grad():
        apart = completion_states(lm, FAMILIES, "off")
        expected = last_logits()
        assert enable_sharing(lm, max_length=64)
        by_hand.clear()
        together = completion_states(lm, FAMILIES, "on")
        assert set(by_hand) == {6, 4}  # of the longest prompt, of the longest completion
        assert relative(together.hidden[together.before], apart.hidden[apart.before]) <= 0.02
        by_hand.clear()
        assert relative(last_logits(), expected) <= 0.02
    assert 1 in by_hand


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": torch.float32},
        {"queries": 513},
        {"kwargs": {"softcap": 30.0}},
        {"mask": torch.zeros(1, 1, 6, 6, dtype=torch.bfloat16)},
        {"kwargs": {"is_causal": False}},
        {"queries": 3},
    ],
    ids=["float32", "many queries", "softcap", "a mask that is added", "not causal", "queries after others"],
)
def test_what_is_faster_in_sdpa_or_unknown_to_us_is_left_to_it(monkeypatch, by_hand, change):
    said = []
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *args, **kwargs: said.append((args, kwargs)))
    queries = change.get("queries", 6)
    query = torch.zeros(1, 2, queries, 4, dtype=change.get("dtype", torch.bfloat16))
    key = query.new_zeros(1, 2, max(queries, 6), 4)
    settings = change.get("kwargs", {})
    attention.attention(None, query, key, key, change.get("mask"), **settings)
    assert not by_hand
    assert said[0][1] == settings

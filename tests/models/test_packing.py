"""Rows that lie one behind the other in a pass: the numbers and gradients of each row alone, and no padding computed.

The kernel is for GPUs; here a loop over the rows stands in for it, which takes the same arguments.
"""

import itertools
import math

import pytest
import torch
from torch import tensor as T
from torch.nn.attention.varlen import varlen_attn

from easyrlhf.data.batches import join
from easyrlhf.models import attention, prefix_sharing
from easyrlhf.models.logprobs import row_token_logprobs, token_logprobs
from easyrlhf.models.prefix_sharing import enable_sharing
from easyrlhf.models.value_head import ScalarModel, new_head

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12, 13], [14, 15, 16, 17]]
COMPLETIONS = [[20, 21], [22, 23, 24], [25]]
WEIGHTS = torch.linspace(-1, 2, 6)
KINDS = ["llama", "qwen2", "gpt2"]


class Kernel:
    """What the kernel for rows of various lengths computes, and how it was called.

    ends  of each call: where rows end
    """

    def __init__(self):
        self.ends: list[list[int]] = []

    def __call__(self, query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa=False):
        assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
        assert (max_q, max_k) == (cu_seq_q.diff().max(), cu_seq_k.diff().max())
        assert window_size == (-1, 0)  # a query looks at all that came before
        assert enable_gqa == (query.shape[1] != key.shape[1])
        self.ends.append(cu_seq_q.tolist())
        key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for tensor in (key, value))
        bounds = zip(itertools.pairwise(cu_seq_q), itertools.pairwise(cu_seq_k), strict=True)
        return torch.cat([self.row(query[a:b], key[c:d], value[c:d], scale) for (a, b), (c, d) in bounds])

    @staticmethod
    def row(query, key, value, scale):
        """Causal attention of one row, whose last query looks at the last key."""
        scores = torch.einsum("qhd,khd->hqk", query, key) * (scale or 1 / math.sqrt(query.shape[2]))
        ahead = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1 + len(key) - len(query))
        return torch.einsum("hqk,khd->qhd", scores.masked_fill(ahead, -torch.inf).softmax(-1), value)


@pytest.fixture
def packing(tiny_lm, monkeypatch):
    """packing(kind) -> a model that packs rows, the kernel, and a list that fills with the tokens of each pass."""
    kernel, passes = Kernel(), []
    monkeypatch.setattr(prefix_sharing, "packs_rows", lambda device, dtype: True)
    monkeypatch.setattr(attention, "varlen_attn", kernel)

    def make(kind="llama"):
        lm = tiny_lm(kind)
        assert enable_sharing(lm, 16)
        kernel.ends.clear()
        lm.get_input_embeddings().register_forward_hook(lambda _, inputs, out: passes.append(inputs[0].shape))
        return lm, kernel, passes

    return make


def apart(lm) -> torch.Tensor:
    """The log-probabilities of the completions by transformers' own logits, each row alone.  [6]"""
    plain = prefix_sharing.plain_lm(lm)
    plain.set_attn_implementation("sdpa")
    found = []
    for prompt, ids in zip(PROMPTS, COMPLETIONS, strict=True):
        table = lm(input_ids=T([prompt + ids]), use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        found.append(table.gather(1, T(ids)[:, None]).squeeze(1))
    plain.set_attn_implementation(prefix_sharing.SHARING)
    return torch.cat(found)


def gradients(lm, logprobs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the weighted sum of the six log-probabilities, by parameter."""
    lm.zero_grad()
    (WEIGHTS * logprobs).sum().backward()
    return {name: p.grad.clone() for name, p in lm.named_parameters()}


def logprobs_of_rows(lm) -> torch.Tensor:
    return row_token_logprobs(lm, *join(PROMPTS, COMPLETIONS, pad_id=0))


def logprobs_of_answers(lm) -> torch.Tensor:
    families = [(prompt, [ids]) for prompt, ids in zip(PROMPTS, COMPLETIONS, strict=True)]
    return token_logprobs(lm, families, "off")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("logprobs", "ends"),
    [(logprobs_of_rows, [0, 7, 12, 16]), (logprobs_of_answers, [0, 8, 14, 19])],  # the last tokens' states are not read
    ids=["rows", "answers"],
)
def test_logprobs_and_gradients_are_those_of_every_row_alone(packing, kind, logprobs, ends):
    lm, kernel, passes = packing(kind)
    expected = apart(lm)
    grads = gradients(lm, expected)
    passes.clear()
    found = logprobs(lm)
    assert passes == [(1, ends[-1])]
    assert {tuple(call) for call in kernel.ends} == {tuple(ends)}
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    for name, grad in gradients(lm, found).items():
        torch.testing.assert_close(grad, grads[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_that_are_shared_and_answers_behind_them_go_through_the_kernel(packing, kind):
    lm, kernel, passes = packing(kind)
    expected = apart(lm)
    grads = gradients(lm, expected)
    passes.clear()
    families = [(prompt, [ids]) for prompt, ids in zip(PROMPTS, COMPLETIONS, strict=True)]
    found = token_logprobs(lm, families, "on")
    assert passes == [(1, 19)]
    assert {tuple(call) for call in kernel.ends} == {(0, 6, 9, 13), (0, 2, 5, 6)}
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    for name, grad in gradients(lm, found).items():
        torch.testing.assert_close(grad, grads[name], rtol=1e-4, atol=1e-5, msg=name)


@torch.no_grad()
def test_answers_of_one_prompt_see_it_and_not_one_another(packing):
    lm, kernel, _ = packing("qwen2")
    alone = torch.cat([token_logprobs(lm, [(PROMPTS[0], [ids])], "off") for ids in COMPLETIONS])
    kernel.ends.clear()
    together = token_logprobs(lm, [(PROMPTS[0], COMPLETIONS)], "on")
    assert {tuple(call) for call in kernel.ends} == {(0, 6), (0, 2, 5, 6)}
    torch.testing.assert_close(together, alone, rtol=0, atol=2e-5)


def test_keys_are_repeated_where_the_kernel_wants_one_for_every_query(packing, monkeypatch):
    lm, kernel, _ = packing("qwen2")
    expected = logprobs_of_answers(lm)
    grads = gradients(lm, expected)
    monkeypatch.setattr(attention, "TAKES_FEWER_KEYS", False)

    def old(query, key, value, *places, scale, window_size):  # torch 2.11 knows no enable_gqa, and checks no heads
        return kernel(query, key, value, *places, scale=scale, window_size=window_size)

    monkeypatch.setattr(attention, "varlen_attn", old)
    found = logprobs_of_answers(lm)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    for name, grad in gradients(lm, found).items():
        torch.testing.assert_close(grad, grads[name], rtol=1e-5, atol=1e-6, msg=name)


@torch.no_grad()
def test_scores_are_those_of_every_row_alone(packing):
    lm, kernel, passes = packing()
    model = ScalarModel(lm, new_head(lm))
    alone = [model.scores(T([ids]), T([len(ids)])).item() for ids in ([5, 6, 7, 8], [9, 10])]
    assert not kernel.ends  # a row without padding has nothing to gain
    passes.clear()
    found = model.scores(T([[5, 6, 7, 8], [9, 10, 0, 0]]), T([4, 2]))
    assert passes == [(1, 6)]
    assert found.tolist() == pytest.approx(alone, abs=1e-5)


@torch.no_grad()
def test_dropout_in_attention_is_left_to_sdpa(packing):
    lm, kernel, _ = packing()
    for layer in lm.model.layers:
        layer.self_attn.attention_dropout = 0.5
    lm.train()
    assert logprobs_of_rows(lm).isfinite().all()
    assert not kernel.ends


@torch.no_grad()
def test_a_model_with_other_attention_is_padded(packing):
    lm, kernel, passes = packing()
    expected = apart(lm)
    lm.set_attn_implementation("eager")
    passes.clear()
    torch.testing.assert_close(logprobs_of_rows(lm), expected, rtol=0, atol=2e-5)
    assert passes == [(3, 8)]
    assert not kernel.ends


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "packs"),
    [
        ("cuda", torch.bfloat16, (8, 0), True),
        ("cuda", torch.float16, (9, 0), True),
        ("cuda", torch.bfloat16, (7, 5), False),
        ("cuda", torch.float32, (9, 0), False),
        ("cpu", torch.bfloat16, (9, 0), False),
    ],
)
def test_the_kernel_is_for_gpus_from_ampere_on_in_half(monkeypatch, device, dtype, capability, packs):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert attention.packs_rows(torch.device(device), dtype) is packs


def test_torchs_kernel_takes_these_arguments():
    query, key = (torch.empty(9, heads, 64, dtype=torch.bfloat16, device="meta") for heads in (4, 2))
    ends = torch.empty(3, dtype=torch.int32, device="meta")
    found = attention.attend_packed(query, key, key, (ends, ends), (5, 5), 0.1)
    assert attention.varlen_attn is varlen_attn
    assert (found.shape, found.dtype) == (query.shape, query.dtype)

"""Token log-probabilities against the full logits of transformers, row by row and without padding."""

import math

import pytest
import torch
from torch import tensor as T

from easyrlhf.data.batches import join
from easyrlhf.models import logprobs
from easyrlhf.models.logprobs import row_token_logprobs, token_logprobs_and_entropies

FAMILIES = ["llama", "llama-tied", "qwen2", "gpt2", "gpt-neox", "opt", "gemma2", "cohere", "granite"]
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14]]
COMPLETIONS = [[20, 21, 22, 23], [24, 25], [26]]
ROWS = [(prompt, [completion]) for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True)]
FLOAT32 = {"rtol": 0, "atol": 2e-5}  # logits are rounded to float32 before the softmax


@pytest.fixture
def one_row_chunks(monkeypatch):
    """A memory budget of a single row of logits."""
    monkeypatch.setattr(logprobs, "LOGITS_BYTES", {"cpu": 1})


def full_log_softmax(lm, prompt: list[int], completion: list[int], temperature: float) -> torch.Tensor:
    """Log-softmax over the vocabulary before each completion token, from the row alone.  [T, V]"""
    logits = lm(input_ids=T([prompt + completion]), use_cache=False).logits[0].double()
    return (logits / temperature).log_softmax(-1)[len(prompt) - 1 : -1]


@torch.no_grad()
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_and_entropies_are_those_of_each_row_alone(tiny_lm, family, temperature):
    lm = tiny_lm(family, dtype=torch.float64)
    expected, entropies = [], []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        table = full_log_softmax(lm, prompt, completion, temperature)
        expected += [table[t, token] for t, token in enumerate(completion)]
        entropies += [-(row.exp() * row).sum() for row in table]
    input_ids, mask = join(PROMPTS, COMPLETIONS, pad_id=0)

    found = row_token_logprobs(lm, input_ids, mask, temperature)
    again, found_entropies = token_logprobs_and_entropies(lm, ROWS, "off", temperature)

    torch.testing.assert_close(found.double(), torch.stack(expected), **FLOAT32)
    torch.testing.assert_close(again.double(), torch.stack(expected), **FLOAT32)
    torch.testing.assert_close(found_entropies.double(), torch.stack(entropies), **FLOAT32)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt-neox"])
def test_what_stands_in_the_padding_does_not_matter(tiny_lm, family):
    lm = tiny_lm(family, dtype=torch.float64)
    input_ids, mask = join(PROMPTS, COMPLETIONS, pad_id=0)
    junk, _ = join(PROMPTS, COMPLETIONS, pad_id=33)
    assert (input_ids != junk).any()
    torch.testing.assert_close(
        row_token_logprobs(lm, junk, mask), row_token_logprobs(lm, input_ids, mask), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2"])
def test_chunks_change_neither_logprobs_nor_gradients(tiny_lm, family, monkeypatch):
    lm = tiny_lm(family)
    input_ids, mask = join(PROMPTS, COMPLETIONS, pad_id=0)
    weights = torch.linspace(-1, 2, int(mask.sum()))

    def run():
        lm.zero_grad()
        logprobs_ = row_token_logprobs(lm, input_ids, mask, 0.7)
        (weights * logprobs_).sum().backward()
        return logprobs_.detach(), {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}

    whole, whole_grads = run()
    for rows in (1, 3):  # 7 tokens in chunks of 1, and of 3, 3, 1
        monkeypatch.setattr(logprobs, "LOGITS_BYTES", {"cpu": 4 * 50 * rows})
        chunked, chunked_grads = run()
        torch.testing.assert_close(chunked, whole, rtol=0, atol=5e-6)
        assert chunked_grads.keys() == whole_grads.keys()
        for name, grad in whole_grads.items():
            torch.testing.assert_close(chunked_grads[name], grad, rtol=1e-4, atol=1e-5, msg=name)


@torch.no_grad()
def test_chunks_change_nothing_without_gradients(tiny_lm, one_row_chunks):
    lm = tiny_lm()
    input_ids, mask = join(PROMPTS, COMPLETIONS, pad_id=0)
    expected = torch.cat(
        [
            full_log_softmax(lm, prompt, completion, 1.0).gather(1, T(completion)[:, None]).squeeze(1)
            for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True)
        ]
    )
    torch.testing.assert_close(row_token_logprobs(lm, input_ids, mask).double(), expected, **FLOAT32)
    torch.testing.assert_close(token_logprobs_and_entropies(lm, ROWS, "off")[0].double(), expected, **FLOAT32)


@torch.no_grad()
def test_token_1_after_logits_0_and_ln_3(echo_lm):
    # the token before is id 1, so the logits are 0 and ln 3: p = ¼, ¾
    logprobs_, entropies = token_logprobs_and_entropies(echo_lm, [([1], [[1]])], "off")
    assert logprobs_.item() == pytest.approx(math.log(3 / 4))
    assert row_token_logprobs(echo_lm, T([[1, 0]]), T([[0, 1]])).item() == pytest.approx(math.log(1 / 4))
    assert entropies.item() == pytest.approx(math.log(4) / 4 + 3 / 4 * math.log(4 / 3))


@torch.no_grad()
def test_temperature_divides_the_logits(echo_lm):
    # at ½ the logits are 0 and 2 ln 3: p = 1/10, 9/10
    logprobs_, entropies = token_logprobs_and_entropies(echo_lm, [([1], [[1]])], "off", 0.5)
    assert logprobs_.item() == pytest.approx(math.log(9 / 10))
    assert row_token_logprobs(echo_lm, T([[1, 1]]), T([[0, 1]]), 0.5).item() == pytest.approx(math.log(9 / 10))
    assert entropies.item() == pytest.approx(math.log(10) / 10 + 9 / 10 * math.log(10 / 9))


def test_a_model_is_trained_by_its_counted_tokens_alone(tiny_lm):
    """Three steps along the gradient make the counted token likely and touch no other position's target."""
    lm = tiny_lm(seed=3)
    input_ids, mask = T([[5, 6, 7, 8]]), T([[0, 0, 1, 0]])
    before = row_token_logprobs(lm, input_ids, mask).item()
    for _ in range(3):
        lm.zero_grad()
        row_token_logprobs(lm, input_ids, mask).sum().backward()
        with torch.no_grad():
            for parameter in lm.parameters():
                if parameter.grad is not None:
                    parameter += 0.05 * parameter.grad
    with torch.no_grad():
        likeliest = full_log_softmax(lm, [5, 6], [7, 8], 1.0)[0].argmax().item()
    assert row_token_logprobs(lm, input_ids, mask).item() > before
    assert likeliest == 7

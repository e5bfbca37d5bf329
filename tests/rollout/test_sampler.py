"""The sampler against transformers' generate() and against the model's own probabilities."""

import math
from collections import Counter

import pytest
import torch
from torch import tensor as T

from easyrlhf.models.load import add_lora
from easyrlhf.rollout.sampler import HFSampler, draw

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16], [17, 18, 19, 20, 21, 22, 23, 24], [25], [26, 27, 28]]
KEYS = [(0, number) for number in range(len(PROMPTS))]
WIDTH, PAD, NEVER = 12, 0, 10_000


def sampler(lm, *, eos=NEVER, temperature=1.0, batch_size=7, width=WIDTH) -> HFSampler:
    return HFSampler(lm, PAD, eos, width, temperature, batch_size)


def rows_of(samples) -> list[list[int]]:
    """The tokens the mask counts, row by row."""
    return [
        [token for token, counts in zip(ids, mask, strict=True) if counts]
        for ids, mask in zip(samples.completion_ids.tolist(), samples.completion_mask.tolist(), strict=True)
    ]


def greedy(lm, prompt: list[int], eos: int | None) -> list[int]:
    """What transformers' own greedy search says to this prompt alone."""
    ids = T([prompt])
    out = lm.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=WIDTH,
        eos_token_id=eos,
        pad_token_id=PAD,
        use_cache=False,
    )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gpt-neox", "mistral", "gemma2"])
def test_temperature_0_is_greedy_search_token_for_token(tiny_lm, family):
    # gemma2's softcapping, in transformers, makes NaN of padding in float64 (of its generate() too)
    dtype = torch.float32 if family == "gemma2" else torch.float64
    lm = tiny_lm(family, dtype=dtype, eos_token_id=None)
    free = [greedy(lm, prompt, None) for prompt in PROMPTS]
    eos = free[2][4]  # a token that greedy search does reach
    expected = [greedy(lm, prompt, eos) for prompt in PROMPTS]
    assert len({len(row) for row in expected}) > 1
    for batch_size in (1, 2, 7):
        samples = sampler(lm, eos=eos, temperature=0.0, batch_size=batch_size).generate(PROMPTS, KEYS)
        assert rows_of(samples) == expected
        assert samples.finished.tolist() == [row[-1] == eos for row in expected]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_samples_do_not_depend_on_batch_size_or_order(tiny_lm, family):
    lm = tiny_lm(family, dtype=torch.float64)
    expected = rows_of(sampler(lm, eos=30, batch_size=7).generate(PROMPTS, KEYS))
    for batch_size in (1, 2, 3):
        assert rows_of(sampler(lm, eos=30, batch_size=batch_size).generate(PROMPTS, KEYS)) == expected
    order = [3, 0, 6, 5, 1, 4, 2]
    shuffled = sampler(lm, eos=30, batch_size=3).generate([PROMPTS[i] for i in order], [KEYS[i] for i in order])
    assert rows_of(shuffled) == [expected[i] for i in order]
    alone = sampler(lm, eos=30).generate(PROMPTS[4:5], KEYS[4:5])
    assert rows_of(alone) == expected[4:5]


def test_every_key_has_its_own_random_numbers(tiny_lm):
    lm = tiny_lm()
    rows = rows_of(sampler(lm).generate([PROMPTS[0]] * 20, [(0, number) for number in range(20)]))
    assert len(set(map(tuple, rows))) == 20
    assert rows_of(sampler(lm).generate([PROMPTS[0]], [(0, 3)])) == [rows[3]]
    torch.manual_seed(7)  # torch's own generator plays no part
    assert rows_of(sampler(lm).generate([PROMPTS[0]], [(0, 3)])) == [rows[3]]


def chi_square(counts: Counter, probabilities: dict, total: int) -> tuple[float, float]:
    """Pearson's statistic over the cells expected at least 5 times (the rest is one cell), and its 99.99 % bound."""
    cells = [(counts[cell], total * p) for cell, p in probabilities.items() if total * p >= 5]
    rest = (total - sum(seen for seen, _ in cells), total - sum(expected for _, expected in cells))
    cells += [rest] if rest[1] > 1e-9 else []
    k = len(cells) - 1
    bound = k * (1 - 2 / (9 * k) + 3.719 * math.sqrt(2 / (9 * k))) ** 3  # Wilson-Hilferty
    return sum((seen - expected) ** 2 / expected for seen, expected in cells), bound


@torch.no_grad()
def two_token_probabilities(lm, prompt: list[int], eos: int, temperature: float) -> dict[tuple[int, ...], float]:
    """Exact probability of every completion of at most two tokens, without cache or padding."""

    def softmax(ids):
        return (lm(input_ids=T([ids]), use_cache=False).logits[0, -1].double() / temperature).softmax(-1).tolist()

    exact = {}
    for first, p in enumerate(softmax(prompt)):
        if first == eos:
            exact[(first,)] = p
            continue
        for second, q in enumerate(softmax([*prompt, first])):
            exact[(first, second)] = p * q
    return exact


def test_completions_are_drawn_with_the_probabilities_of_the_model(tiny_lm):
    lm, total, eos = tiny_lm(vocab=10, eos_token_id=2), 6000, 2
    long, short = [4, 5, 6, 7, 8, 9], [3]
    samples = sampler(lm, eos=eos, temperature=0.7, batch_size=1000, width=2).generate(
        [long, short] * total, [(1, number) for number in range(2 * total)]
    )
    rows = [tuple(row) for row in rows_of(samples)]
    for prompt, counts in ((long, Counter(rows[::2])), (short, Counter(rows[1::2]))):
        statistic, bound = chi_square(counts, two_token_probabilities(lm, prompt, eos, 0.7), total)
        assert statistic < bound
        for wrong in (1.0, 0.6):  # the test is sharp enough to tell the temperature
            statistic, bound = chi_square(counts, two_token_probabilities(lm, prompt, eos, wrong), total)
            assert statistic > bound


@torch.no_grad()
@pytest.mark.parametrize("temperature, scored_at", [(1.0, 1.0), (0.6, 0.6), (0.0, 1.0)])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt-neox"])
def test_logprobs_are_those_of_the_drawn_tokens(tiny_lm, family, temperature, scored_at):
    lm = tiny_lm(family, dtype=torch.float64)
    samples = sampler(lm, eos=30, temperature=temperature, batch_size=3).generate(PROMPTS, KEYS)
    for row, (prompt, tokens) in enumerate(zip(PROMPTS, rows_of(samples), strict=True)):
        table = (lm(input_ids=T([prompt + tokens]), use_cache=False).logits[0] / scored_at).log_softmax(-1)
        expected = [table[len(prompt) - 1 + t, token].item() for t, token in enumerate(tokens)]
        padding = [0.0] * (samples.logprobs.shape[1] - len(tokens))
        assert samples.logprobs[row].tolist() == pytest.approx(expected + padding, abs=2e-5)


def test_the_mask_counts_the_end_of_turn_token_and_nothing_after_it(tiny_lm):
    lm = tiny_lm(vocab=10)
    samples = sampler(lm, eos=4, width=30).generate(PROMPTS[1:2] * 30, [(2, number) for number in range(30)])
    rows = rows_of(samples)
    ended = [4 in row for row in rows]
    assert samples.finished.tolist() == ended
    assert sum(ended) > 0
    for row, ids, mask in zip(rows, samples.completion_ids.tolist(), samples.completion_mask.tolist(), strict=True):
        assert mask == [1.0] * len(row) + [0.0] * (len(mask) - len(row))
        assert ids[len(row) :] == [PAD] * (len(ids) - len(row))
        assert 4 not in row[:-1]
        assert row[-1] == 4 or len(row) == 30


def test_a_completion_is_cut_off_at_max_new_tokens_and_not_finished(tiny_lm):
    lm = tiny_lm()
    samples = sampler(lm, width=3).generate(PROMPTS, KEYS)
    assert samples.completion_mask.tolist() == [[1.0] * 3] * 7
    assert not samples.finished.any()


def test_an_end_of_turn_as_the_very_last_token_is_finished(tiny_lm):
    lm = tiny_lm(dtype=torch.float64)
    third = greedy(lm, PROMPTS[0], None)[2]
    samples = sampler(lm, eos=third, temperature=0.0, width=3).generate(PROMPTS[:1], KEYS[:1])
    assert samples.completion_mask.tolist() == [[1.0] * 3]
    assert samples.finished.tolist() == [True]


def test_the_tensors_are_as_wide_as_the_longest_completion(tiny_lm):
    lm = tiny_lm(dtype=torch.float64)
    second = greedy(lm, PROMPTS[0], None)[1]
    samples = sampler(lm, eos=second, temperature=0.0).generate(PROMPTS[:1], KEYS[:1])
    assert samples.completion_ids.tolist() == [greedy(lm, PROMPTS[0], second)]


def test_sampling_drops_nothing_and_gives_the_training_mode_back(tiny_lm):
    lm = tiny_lm(dtype=torch.float64, attention_dropout=0.5)
    expected = rows_of(sampler(lm).generate(PROMPTS, KEYS))
    lm.train()
    assert rows_of(sampler(lm).generate(PROMPTS, KEYS)) == expected
    assert lm.training
    lm.eval()
    sampler(lm).generate(PROMPTS[:1], KEYS[:1])
    assert not lm.training


def test_a_lora_policy_samples_with_its_adapter(tiny_lm):
    lora = add_lora(tiny_lm(dtype=torch.float64), r=4, alpha=8, dropout=0.3, target="all-linear").double()
    torch.manual_seed(0)
    for name, parameter in lora.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    lora.train()
    found = rows_of(sampler(lora, temperature=0.0).generate(PROMPTS, KEYS))
    merged = lora.eval().merge_and_unload()
    assert found == [greedy(merged, prompt, None) for prompt in PROMPTS]
    base = tiny_lm(dtype=torch.float64)
    assert found != [greedy(base, prompt, None) for prompt in PROMPTS]


# --- one draw


def test_draw_inverts_the_cumulative_distribution():
    # p = .2 .3 .5: cumulative .2 .5 1
    logits = T([[0.2, 0.3, 0.5]]).log().expand(6, 3)
    uniforms = T([0.0, 0.19, 0.21, 0.49, 0.51, 0.99], dtype=torch.float64)
    tokens, logprobs = draw(logits, uniforms, 1.0)
    assert tokens.tolist() == [0, 0, 1, 1, 2, 2]
    assert logprobs.exp().tolist() == pytest.approx([0.2, 0.2, 0.3, 0.3, 0.5, 0.5])


def test_draw_divides_logits_by_the_temperature():
    # p² renormalised at temperature ½: .04 .09 .25 over .38 = .105 .237 .658: cumulative .105 .342 1
    logits = T([[0.2, 0.3, 0.5]]).log().expand(4, 3)
    tokens, logprobs = draw(logits, T([0.10, 0.11, 0.34, 0.35], dtype=torch.float64), 0.5)
    assert tokens.tolist() == [0, 1, 1, 2]
    assert logprobs.exp().tolist() == pytest.approx([4 / 38, 9 / 38, 9 / 38, 25 / 38])


def test_draw_at_temperature_0_takes_the_likeliest_and_scores_it_under_the_plain_softmax():
    tokens, logprobs = draw(T([[0.2, 0.5, 0.3]]).log(), T([0.99], dtype=torch.float64), 0.0)
    assert tokens.tolist() == [1]
    assert logprobs.exp().item() == pytest.approx(0.5)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_tokens_without_probability_are_never_drawn(uniform):
    logits = T([[-math.inf, 0.0, 0.0, -math.inf]])
    tokens, _ = draw(logits, T([uniform], dtype=torch.float64), 1.0)
    assert tokens.item() in (1, 2)


def test_the_largest_uniform_number_stays_inside_the_vocabulary():
    torch.manual_seed(0)
    logits = torch.randn(2000, 50)
    tokens, _ = draw(logits, torch.full((2000,), 1 - 2**-53, dtype=torch.float64), 1.0)
    assert tokens.max().item() <= 49

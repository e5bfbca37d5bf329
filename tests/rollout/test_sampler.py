"""The sampler against transformers' generate() and against the model's own probabilities."""

import heapq
from collections import Counter

import numpy as np
import pytest
import torch
from torch import tensor as T

from easyrlhf.models.lora import LoraSettings, add_lora
from easyrlhf.models.shared_backbone import POLICY, SharedBackbone
from easyrlhf.rollout import decode_batch, slot_cache
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16], [17, 18, 19, 20, 21, 22, 23, 24], [25], [26, 27, 28]]
KEYS = [(0, number) for number in range(len(PROMPTS))]
WIDTH, PAD, NEVER = 12, 0, 10_000


def sampler(lm, *, eos=NEVER, temperature=1.0, batch_size=7, width=WIDTH) -> HFSampler:
    return HFSampler(lm, PAD, Ending((eos,)), width, temperature, batch_size)


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


FAMILIES = ["llama", "qwen2", "gpt2", "gpt-neox", "mistral", "gemma2", "opt", "bloom", "falcon", "starcoder", "cohere"]


@pytest.mark.parametrize("family", FAMILIES)
def test_temperature_0_is_greedy_search_token_for_token(tiny_lm, family):
    lm = tiny_lm(family, dtype=torch.float64, eos_token_id=None)
    free = [greedy(lm, prompt, None) for prompt in PROMPTS]
    eos = free[2][4]  # a token that greedy search does reach
    expected = [greedy(lm, prompt, eos) for prompt in PROMPTS]
    assert len({len(row) for row in expected}) > 1
    for batch_size in (1, 2, 7):
        samples = sampler(lm, eos=eos, temperature=0.0, batch_size=batch_size).generate(PROMPTS, KEYS)
        assert rows_of(samples) == expected
        assert samples.finished.tolist() == [row[-1] == eos for row in expected]


# bloom takes its softmax in float32 whatever its weights are in
@pytest.mark.parametrize("family, within", [("llama", 1e-9), ("gpt2", 1e-9), ("mistral", 1e-9), ("bloom", 2e-6)])
def test_samples_do_not_depend_on_batch_size_order_or_company(tiny_lm, family, within, monkeypatch):
    lm = tiny_lm(family, dtype=torch.float64)
    asked, keys = PROMPTS * 3, [(0, number) for number in range(3 * len(PROMPTS))]
    alone = [sampler(lm, eos=30).generate([prompt], [key]) for prompt, key in zip(asked, keys, strict=True)]
    expected, scores = [rows_of(one)[0] for one in alone], [one.logprobs[0] for one in alone]
    assert len({len(row) for row in expected}) > 2  # so that they come and go

    def check(order: list[int], batch_size: int):
        samples = sampler(lm, eos=30, batch_size=batch_size).generate(
            [asked[i] for i in order], [keys[i] for i in order]
        )
        assert rows_of(samples) == [expected[i] for i in order]
        for i, found in zip(order, samples.logprobs, strict=True):
            torch.testing.assert_close(found[: len(scores[i])], scores[i], rtol=0, atol=within)
            assert not found[len(scores[i]) :].any()

    everything = list(range(len(asked)))
    for batch_size in (1, 2, 3, 5, 21):
        check(everything, batch_size)
    check([13, 0, 6, 5, 1, 4, 2, 20, 7], 3)
    check([8, 9], 4)
    # the cache grows, and gives columns back, all the time; prompts are read a few at a time
    monkeypatch.setattr(slot_cache, "CHUNK", 1)
    monkeypatch.setattr(decode_batch, "CHUNK", 1)
    monkeypatch.setattr(decode_batch, "PREFILL_TOKENS", 9)
    for batch_size in (1, 2, 5, 21):
        check(everything, batch_size)


@torch.no_grad()
def test_in_float32_only_draws_at_a_boundary_may_differ(tiny_lm):
    vocab, count, temperature = 1000, 200, 2.0
    lm = tiny_lm(vocab=vocab)
    exact = tiny_lm(vocab=vocab, dtype=torch.float64)
    asked, keys = [PROMPTS[number % 7] for number in range(count)], [(3, number) for number in range(count)]

    def drawn(model, batch_size):
        return rows_of(sampler(model, temperature=temperature, batch_size=batch_size).generate(asked, keys))

    def distance(row: int, before: list[int], t: int) -> float:
        """From the uniform number of a draw to the nearest boundary of the cumulative distribution."""
        logits = exact(input_ids=T([asked[row] + before]), use_cache=False).logits[0, -1] / temperature
        uniform = np.random.default_rng(keys[row]).random(WIDTH)[t]
        return (logits.softmax(-1).cumsum(-1) - uniform).abs().min().item()

    expected = drawn(exact, 64)
    differing = 0
    for found in (drawn(lm, 64), drawn(lm, 5)):
        for row, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            first = next((t for t in range(WIDTH) if ours[t] != theirs[t]), None)
            if first is not None:
                differing += 1
                assert distance(row, ours[:first], first) < 1e-5
    assert differing < 40  # of 400: most are equal
    ordinary = [distance(row, expected[row][:5], 5) for row in range(50)]
    assert np.median(ordinary) > 1e-5  # the excuse does not hold for every draw


def test_every_key_has_its_own_random_numbers(tiny_lm):
    lm = tiny_lm()
    rows = rows_of(sampler(lm).generate([PROMPTS[0]] * 20, [(0, number) for number in range(20)]))
    assert len(set(map(tuple, rows))) == 20
    assert rows_of(sampler(lm).generate([PROMPTS[0]], [(0, 3)])) == [rows[3]]
    torch.manual_seed(7)  # torch's own generator plays no part
    assert rows_of(sampler(lm).generate([PROMPTS[0]], [(0, 3)])) == [rows[3]]


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


def test_completions_are_drawn_with_the_probabilities_of_the_model(tiny_lm, chi_square):
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
        assert samples.logprobs[row].tolist() == pytest.approx(expected + padding, rel=0, abs=1e-9)


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
    lora = add_lora(tiny_lm(dtype=torch.float64), LoraSettings(r=4, alpha=8, dropout=0.3, target="all-linear")).double()
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


def test_a_view_of_a_shared_backbone_samples_with_its_own_adapter(tiny_lm):
    shared = SharedBackbone(
        add_lora(tiny_lm(dtype=torch.float64), LoraSettings(r=4, alpha=8, dropout=0.0, target="all-linear"))
    )
    shared.add_like("other", POLICY)
    torch.manual_seed(0)
    for name, parameter in shared.lora_lm.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    shared.lora_lm.double()
    views = {name: shared.view(name, trained=True) for name in (POLICY, "other")}
    found = {name: rows_of(sampler(view, temperature=0.0).generate(PROMPTS, KEYS)) for name, view in views.items()}
    for name, rows in found.items():
        shared.activate(name)
        assert rows == [greedy(shared.lora_lm, prompt, None) for prompt in PROMPTS]
    assert found[POLICY] != found["other"]


def test_a_stream_is_what_generate_gives(tiny_lm):
    lm = tiny_lm(dtype=torch.float64)
    rows = rows_of(sampler(lm, eos=30).generate(PROMPTS, KEYS))
    for prompt, key, row in zip(PROMPTS, KEYS, rows, strict=True):
        assert list(sampler(lm, eos=30).stream(prompt, key)) == row


# --- what is computed


@pytest.fixture
def passes(tiny_lm):
    """A model, and the shapes of the token ids it has been given, pass by pass."""
    lm, shapes = tiny_lm(vocab=10, dtype=torch.float64), []
    lm.get_input_embeddings().register_forward_hook(lambda module, given, result: shapes.append(tuple(given[0].shape)))
    return lm, shapes


def test_a_prompt_is_read_once_for_all_of_its_samples(passes):
    lm, shapes = passes
    long, short = [5, 6, 7, 8, 9, 5], [5, 6, 7]
    keys = [(0, number) for number in range(16)]
    samples = sampler(lm, batch_size=3, width=2).generate([long, short] * 8, keys)
    # but for the last token, which is read as drawn ones are; the short one is filled up
    assert [shape for shape in shapes if shape[1] > 1] == [(2, 5)]
    assert sum(shape[0] for shape in shapes if shape[1] == 1) == 16 * 2
    assert len({tuple(row) for row in samples.completion_ids.tolist()}) > 8


def test_the_next_prompt_takes_the_place_of_what_has_ended(passes):
    lm, shapes = passes
    asked, keys = [[5, 6]] * 40, [(4, number) for number in range(40)]
    lengths = [len(row) for row in rows_of(sampler(lm, eos=4, batch_size=4).generate(asked, keys))]
    assert min(lengths) < WIDTH / 3 and max(lengths) == WIDTH
    free_at = [0] * 4  # the same as hands that take one job after another
    for length in lengths:
        heapq.heappush(free_at, heapq.heappop(free_at) + length)
    decoded = [rows for rows, tokens in shapes if tokens == 1 and rows <= 4][1:]  # the first reads the prompt
    assert len(decoded) == max(free_at)
    assert sum(decoded) == sum(lengths)  # and what has ended costs nothing


def test_long_prompts_are_read_some_at_a_time(passes, monkeypatch):
    lm, shapes = passes
    monkeypatch.setattr(decode_batch, "PREFILL_TOKENS", 12)
    asked = [[3 + number] * length for number, length in enumerate([5, 6, 6, 13, 2])]
    sampler(lm, batch_size=5, width=1).generate(asked, [(0, number) for number in range(5)])
    # all but the last token of each; 6 and 6 fit into 12, so do 5 and 2
    assert shapes == [(1, 12), (2, 5), (2, 4), (5, 1)]

"""Completions end at any of several tokens, and at texts, whatever tokens these are made of."""

import pytest
import torch
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from easyrlhf.data.render import Renderer
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.rollout.shape import SamplingShape
from easyrlhf.rollout.vllm_sampler import Completion, Drawing, samples_of

PROMPTS, WIDTH = [[5, 6, 7], [8], [9, 10, 11, 12]] * 4, 24
KEYS = [(0, number) for number in range(len(PROMPTS))]
FREE = Ending((10_000,))


def letters(ids: list[int]) -> str:
    """A text in which every token is one of five letters, and each fifth token is two of them."""
    return "".join("abcde"[i % 5] * (1 + (i % 25 == 0)) for i in ids)


def rows_of(samples) -> list[list[int]]:
    return [
        ids[: int(mask.sum())]
        for ids, mask in zip(samples.completion_ids.tolist(), samples.completion_mask, strict=True)
    ]


def sampled(lm, ending: Ending, batch_size: int = 12, shape: SamplingShape | None = None, temperature: float = 1.0):
    how = (shape,) if shape else ()
    return HFSampler(lm, 0, ending, WIDTH, temperature, batch_size, *how).generate(PROMPTS, KEYS)


def test_each_of_several_tokens_ends_a_completion(tiny_lm):
    lm = tiny_lm(dtype=torch.float64)
    free = rows_of(sampled(lm, FREE))
    expected = [row[: next((n for n, i in enumerate(row, 1) if i in (7, 30)), WIDTH)] for row in free]
    assert {row[-1] for row in expected} >= {7, 30}
    samples = sampled(lm, Ending((30, 7)))
    assert rows_of(samples) == expected
    assert samples.finished.tolist() == [row[-1] in (7, 30) for row in expected]


@pytest.mark.parametrize("finishes", [True, False])
def test_a_text_ends_a_completion_at_the_token_that_completes_it(tiny_lm, finishes):
    lm = tiny_lm(dtype=torch.float64)
    stops = ("cab", "aad")
    expected = []
    for row in rows_of(sampled(lm, FREE)):
        ends = (n for n in range(1, WIDTH + 1) if row[n - 1] == 30 or any(stop in letters(row[:n]) for stop in stops))
        expected.append(row[: next(ends, WIDTH)])
    by_text = [any(stop in letters(row) for stop in stops) for row in expected]
    assert 3 <= sum(by_text) < len(by_text)
    ending = Ending((30,), stops, finishes, letters)
    for batch_size in (1, 5, 12):
        samples = sampled(lm, ending, batch_size)
        assert rows_of(samples) == expected
        found = [row[-1] == 30 or (finishes and text) for row, text in zip(expected, by_text, strict=True)]
        assert samples.finished.tolist() == found
    # what vLLM draws, with stops that it may find late or not at all, is cut at the same tokens
    whole = [Completion(row, [-float(i) for i in row]) for row in rows_of(sampled(lm, FREE))]
    cut = samples_of(whole, 0, ending, torch.device("cpu"))
    assert rows_of(cut) == expected
    assert cut.finished.tolist() == samples.finished.tolist()
    assert cut.logprobs[0].tolist()[: len(expected[0])] == [-float(i) for i in expected[0]]


def test_a_text_is_found_behind_tokens_that_write_nothing():
    """As special tokens, which the text leaves out: so many that the first look does not reach far enough."""
    ids = [1, 2, *[99] * 60, 3]
    ending = Ending((0,), ("abc",), True, lambda ids: "".join({1: "a", 2: "b", 3: "c"}.get(i, "") for i in ids))
    assert ending.by_text(ids)
    assert not ending.by_text(ids[:-1])
    assert not ending.by_text([1, 3, *[99] * 60, 2])


def test_the_text_of_an_answer_ends_with_its_stop_and_has_no_end_in_it(tokenizer):
    ids = tokenizer("The sky is blue. Hello", add_special_tokens=False)["input_ids"]
    assert Renderer(tokenizer, stops=("is", "ky is b")).decode(ids) == "The sky is"
    (plain,) = tokenizer("x", add_special_tokens=False)["input_ids"]
    assert Renderer(tokenizer).decode([*ids, plain, 2]) == "The sky is blue. Hellox"
    assert Renderer(tokenizer, (plain,)).decode([*ids, plain]) == "The sky is blue. Hello"


def test_vllm_is_told_every_end_every_stop_and_what_is_no_token():
    plain = Drawing(16, Ending((2, 7)), [], 0.7).settings()
    assert plain["stop_token_ids"] == [2, 7]
    assert not {"stop", "logit_bias"} & plain.keys()
    told = Drawing(16, Ending((2,), ("</answer>",), False, letters), [280, 281], 0.7).settings()
    assert told["logit_bias"] == {"280": -100.0, "281": -100.0}
    assert (told["stop"], told["include_stop_str_in_output"]) == (["</answer>"], True)


# --- other distributions than the model's own


@pytest.mark.parametrize(
    "shape",
    [
        SamplingShape(top_k=5),
        SamplingShape(top_p=0.6),
        SamplingShape(0.9, 10, 1.3),
        SamplingShape(repetition_penalty=1.5),
    ],
)
def test_a_shaped_draw_is_from_the_distribution_that_transformers_would_make(tiny_lm, shape):
    lm = tiny_lm(dtype=torch.float64)
    warpers = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(shape.repetition_penalty)])
    cutters = [TopKLogitsWarper(shape.top_k)] if shape.top_k else []
    cutters = LogitsProcessorList([*cutters, TopPLogitsWarper(shape.top_p)])
    samples = sampled(lm, FREE, 5, shape, temperature=0.8)
    for prompt, row, logprobs in zip(PROMPTS, rows_of(samples), samples.logprobs, strict=True):
        for n, token in enumerate(row):
            seen = torch.tensor([prompt + row[:n]])
            logits = cutters(seen, warpers(seen, lm(seen).logits[:, -1]) / 0.8)
            assert logprobs[n].item() == pytest.approx(logits.log_softmax(-1)[0, token].item(), abs=1e-8)
    assert rows_of(sampled(lm, FREE, 1, shape, temperature=0.8)) == rows_of(samples)


def test_greedy_search_with_a_repetition_penalty_is_transformers(tiny_lm):
    lm = tiny_lm(dtype=torch.float64, eos_token_id=None)
    samples = sampled(lm, FREE, 5, SamplingShape(0.5, 3, 1.7), temperature=0.0)
    assert rows_of(samples) != rows_of(sampled(lm, FREE, 5, temperature=0.0))
    for prompt, row in zip(PROMPTS, rows_of(samples), strict=True):
        ids = torch.tensor([prompt])
        how = {"do_sample": False, "repetition_penalty": 1.7, "max_new_tokens": WIDTH, "pad_token_id": 0}
        out = lm.generate(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **how)
        assert out[0, len(prompt) :].tolist() == row

"""Greedy answers of a real model: this package's sampler beside transformers' own generate, token for token."""

import pytest
import torch
from transformers import AutoTokenizer

from easyrlhf.data.render import Renderer
from easyrlhf.models.load import ends_of, load_causal_lm
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler

pytestmark = pytest.mark.real

LONGEST = 24
QUESTIONS = [
    "What is the capital of France?",
    "What is 7 + 8?",
    "Name three primary colours, with commas between them.",
    "Write one sentence about a lighthouse keeper who is afraid of the dark and tells nobody.",
    "Say hello in Spanish.",
    "Which is larger, the sun or the moon?",
]


def turns(question: str) -> list[dict]:
    return [{"role": "user", "content": question}]


@pytest.fixture(scope="module")
def plain_answers(real_model, real_lm) -> list[str]:
    """What transformers alone says, one prompt at a time, special tokens included."""
    tokenizer = AutoTokenizer.from_pretrained(real_model)
    answers = []
    for question in QUESTIONS:
        asked = tokenizer.apply_chat_template(
            turns(question), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = real_lm.generate(**asked, do_sample=False, max_new_tokens=LONGEST)
        answers.append(tokenizer.decode(out[0, asked["input_ids"].shape[1] :]))
    return answers


def test_the_model_is_the_one_of_the_wheel(real_model, real_lm, plain_answers):
    tokenizer = AutoTokenizer.from_pretrained(real_model)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    assert len(tokenizer) == real_lm.config.vocab_size == 49152
    assert sum(parameter.numel() for parameter in real_lm.parameters()) == 134_515_008  # the head is the embedding
    assert plain_answers[0] == "The capital of France is Paris.<|im_end|>"


@pytest.mark.parametrize("batch_size", [1, 4])
def test_greedy_answers_are_those_of_generate(real_model, real_tokenizer, plain_answers, batch_size):
    renderer = Renderer(real_tokenizer, ends_of(real_model, real_tokenizer))
    lm = load_causal_lm(real_model, real_tokenizer, dtype=torch.float32)
    prompts = [renderer.prompt_ids(turns(question)) for question in QUESTIONS]
    sampler = HFSampler(lm, renderer.pad_id, Ending.of(renderer), LONGEST, 0.0, batch_size)
    samples = sampler.generate(prompts, [(0, number) for number in range(len(prompts))])
    kept = [ids[mask.bool()] for ids, mask in zip(samples.completion_ids, samples.completion_mask, strict=True)]
    assert [real_tokenizer.decode(ids) for ids in kept] == plain_answers
    assert samples.finished.tolist() == [answer.endswith("<|im_end|>") for answer in plain_answers]
    assert samples.finished.any() and not samples.finished.all()

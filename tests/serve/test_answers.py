"""What clients get is what the decoding loop gives, alone or in company, whole or in pieces."""

import threading

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from easyrlhf.config import PolicyConfig
from easyrlhf.tools.policy import load_sampler, read_renderer

QUESTIONS = [
    "Hello",
    "Name a colour.",
    "Please tell me, in two sentences, why the sky looks blue.",
    "é ü 日本語 🦊 the grass is green",
    "a",
    "why? " * 12,
    "user assistant system",
    "The sky is blue, the grass is green.",
]


def asked(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def ask(client, text: str, model: str = "one", **how) -> str:
    made = client.chat.completions.create(model=model, messages=asked(text), **how)
    return made.choices[0].message.content


def streamed(client, text: str, model: str = "one", **how) -> list:
    return list(client.chat.completions.create(model=model, messages=asked(text), stream=True, **how))


def text_of(chunks) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


@pytest.fixture(scope="module")
def loop(folders):
    """loop(text, seed, temperature, tokens, samples, **shape) -> the texts that the project's own loop gives."""

    def draw(text, seed=0, temperature=1.0, tokens=24, samples=1, **shape):
        config = PolicyConfig(
            model=str(folders.one), devices="cpu", max_new_tokens=tokens, temperature=temperature, **shape
        )
        renderer = read_renderer(config)
        sampler = load_sampler(config, renderer, 8)
        prompt = renderer.prompt_ids(asked(text))
        found = sampler.generate([prompt] * samples, [(seed, 0, sample) for sample in range(samples)])
        rows = zip(found.completion_ids.tolist(), found.completion_mask.sum(1).int().tolist(), strict=True)
        return [renderer.decode(ids[:length]).strip() for ids, length in rows]

    return draw


def test_greedy_answers_are_those_of_transformers_and_of_the_loop(client, folders, loop):
    tokenizer, lm = AutoTokenizer.from_pretrained(folders.one), AutoModelForCausalLM.from_pretrained(folders.one)
    for text in QUESTIONS:
        ids = tokenizer.apply_chat_template(asked(text), add_generation_prompt=True, return_tensors="pt")["input_ids"]
        out = lm.generate(ids, do_sample=False, max_new_tokens=24, attention_mask=torch.ones_like(ids))
        expected = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()
        assert ask(client, text, temperature=0) == expected == loop(text, temperature=0)[0]


def test_a_seed_gives_the_answers_of_generate_to_its_first_prompt(client, loop):
    made = client.chat.completions.create(model="one", messages=asked("Hello"), seed=7, n=3)
    said = [choice.message.content for choice in made.choices]
    assert said == loop("Hello", seed=7, samples=3) and len(set(said)) == 3
    shape = {"top_p": 0.8, "temperature": 0.7}
    more = {"top_k": 20, "repetition_penalty": 1.3}
    found = ask(client, "Hello", seed=7, extra_body=more, **shape)
    assert [found] == loop("Hello", seed=7, **shape, **more) and found != said[0]


def test_eight_clients_at_once_get_the_answers_that_each_gets_alone(client):
    shapes = [{"temperature": (0, 0.5, 1.0)[place % 3], "top_p": (1, 0.9)[place % 2]} for place in range(8)]
    hows = [shape | {"seed": place, "max_tokens": 5 + 3 * place} for place, shape in enumerate(shapes)]
    alone = [ask(client, text, **how) for text, how in zip(QUESTIONS, hows, strict=True)]
    found: dict[int, str] = {}

    def one(number: int) -> None:
        ask_for = streamed if number % 2 else ask
        got = ask_for(client, QUESTIONS[number], **hows[number])
        found[number] = got if isinstance(got, str) else text_of(got)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(8)] == alone

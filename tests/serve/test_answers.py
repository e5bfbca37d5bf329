"""What clients get is what the decoding loop gives, alone or in company, whole or in pieces."""

import threading
import time
from contextlib import suppress

import pytest
import torch
from openai import APITimeoutError
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


def test_a_stream_says_what_the_whole_answer_says_and_what_it_used(client):
    for seed in range(3):
        how = {"seed": seed, "n": 2, "logprobs": True, "top_logprobs": 2}
        whole = client.chat.completions.create(model="one", messages=asked("Hello"), **how)
        chunks = streamed(client, "Hello", stream_options={"include_usage": True}, **how)
        for index, choice in enumerate(whole.choices):
            own = [one for chunk in chunks for one in chunk.choices if one.index == index]
            assert own[0].delta.role == "assistant" and own[-1].finish_reason == choice.finish_reason
            assert "".join(one.delta.content or "" for one in own) == choice.message.content
            said = [token for one in own if one.logprobs for token in one.logprobs.content]
            assert said == choice.logprobs.content
        assert chunks[-1].usage == whole.usage and all(chunk.usage is None for chunk in chunks[:-1])
        assert whole.usage.prompt_tokens + whole.usage.completion_tokens == whole.usage.total_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_log_probabilities_of_an_answer_are_those_of_a_forward_pass(client, folders):
    tokenizer, lm = AutoTokenizer.from_pretrained(folders.one), AutoModelForCausalLM.from_pretrained(folders.one)
    how = {"seed": 1, "temperature": 0.8, "max_tokens": 20, "logprobs": True, "top_logprobs": 3}
    made = client.chat.completions.create(model="one", messages=asked("Hello"), **how).choices[0]
    prompt = tokenizer.apply_chat_template(asked("Hello"), add_generation_prompt=True)["input_ids"]
    letters = {tuple(texts_bytes): i for i, texts_bytes in enumerate(vocabulary(tokenizer))}
    said = [letters[tuple(one.bytes)] for one in made.logprobs.content]
    table = lm(torch.tensor([prompt + said])).logits[0].log_softmax(-1)[len(prompt) - 1 :]
    assert [one.logprob for one in made.logprobs.content] == pytest.approx(
        [row[token].item() for row, token in zip(table, said, strict=False)], abs=1e-4
    )
    for row, one in zip(table, made.logprobs.content, strict=False):
        best = row.topk(3)
        assert [letters[tuple(other.bytes)] for other in one.top_logprobs] == best.indices.tolist()
        assert [other.logprob for other in one.top_logprobs] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert bytes(byte for one in made.logprobs.content for byte in one.bytes).decode(errors="replace").strip() == (
        made.message.content
    )


def vocabulary(tokenizer) -> list[list[int]]:
    """The bytes of each token."""
    from easyrlhf.serve.text import TokenTexts

    texts = TokenTexts(tokenizer)
    return [texts.of(i).bytes for i in range(len(tokenizer))]


def test_a_stop_text_ends_an_answer_and_is_no_part_of_it(client):
    whole = ask(client, "Hello", seed=5)
    stop = whole[7:9]
    how = {"seed": 5, "stop": [stop, "never"]}
    made = client.chat.completions.create(model="one", messages=asked("Hello"), **how).choices[0]
    chunks = streamed(client, "Hello", **how)
    assert made.message.content == text_of(chunks) == whole[: whole.index(stop)].rstrip()
    assert made.finish_reason == chunks[-1].choices[0].finish_reason == "stop"


def test_the_tokens_of_a_stop_text_are_no_part_of_an_answer(client):
    how = {"model": "one", "prompt": "Hello", "seed": 5, "logprobs": 0}
    whole = client.completions.create(**how).choices[0]
    cut = whole.logprobs.text_offset[9]
    made = client.completions.create(**how, stop=whole.text[cut : cut + 2]).choices[0]
    cut = whole.text.index(whole.text[cut : cut + 2])
    before = sum(place < cut for place in whole.logprobs.text_offset)
    assert made.text == whole.text[:cut] and 0 < before < len(whole.logprobs.tokens)
    assert made.logprobs.tokens == whole.logprobs.tokens[:before]


def test_an_answer_ends_with_the_end_of_its_turn_or_at_its_limit(client):
    ends = set()
    for seed in range(8):
        made = client.chat.completions.create(
            model="one", messages=asked("Hello"), seed=seed, max_completion_tokens=40, logprobs=True
        )
        choice, tokens = made.choices[0], made.usage.completion_tokens
        ends.add(choice.finish_reason)
        assert (choice.finish_reason == "length") is (tokens == 40)
        assert len(choice.logprobs.content) == tokens - (choice.finish_reason == "stop")
    assert ends == {"stop", "length"}


def test_an_answer_may_continue_an_assistant_turn(client, folders, loop):
    turns = [*asked("Hello"), {"role": "assistant", "content": "The sky"}]
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    made = client.chat.completions.create(model="one", messages=turns, temperature=0, extra_body=extra)
    config = PolicyConfig(model=str(folders.one), devices="cpu", max_new_tokens=24, continue_final_message=True)
    renderer = read_renderer(config)
    ids = load_sampler(config, renderer, 1)
    found = ids.lm.generate(torch.tensor([renderer.prompt_ids(turns)]), do_sample=False, max_new_tokens=24)
    expected = renderer.decode(found[0, len(renderer.prompt_ids(turns)) :].tolist()).rstrip()
    assert made.choices[0].message.content == expected


def test_texts_are_continued_as_they_are(client, folders, server):
    tokenizer, lm = AutoTokenizer.from_pretrained(folders.one), AutoModelForCausalLM.from_pretrained(folders.one)
    texts = ["The sky is", "Hello"]
    made = client.completions.create(model="one", prompt=texts, temperature=0, max_tokens=9, logprobs=1)
    for text, choice in zip(texts, made.choices, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        out = lm.generate(ids, do_sample=False, max_new_tokens=9)[0, ids.shape[1] :]
        assert choice.text == tokenizer.decode(out, skip_special_tokens=True)
        assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) == 9
        assert choice.logprobs.text_offset[0] == 0
    ids = tokenizer("Hello")["input_ids"]
    again = list(client.completions.create(model="one", prompt=ids, temperature=0, max_tokens=9, stream=True))
    assert "".join(chunk.choices[0].text for chunk in again) == made.choices[1].text


def test_a_client_that_goes_away_frees_its_place(client, server, monkeypatch):
    group = server.engine.groups["one"]
    step = group.step
    monkeypatch.setattr(group, "batch_size", 1)
    monkeypatch.setattr(group, "step", lambda admitted: (time.sleep(0.1), step(admitted)))  # 100 tokens take 10 s
    monkeypatch.setattr(group.served.decoder, "ends", ())
    for how in ({"stream": True}, {"timeout": 0.3}):
        begun = time.monotonic()
        with suppress(APITimeoutError):
            made = client.chat.completions.create(model="one", messages=asked("Hello"), max_tokens=100, n=2, **how)
            next(iter(made))
            made.close()
        while group.samples or group.waiting:
            time.sleep(0.01)
        assert time.monotonic() - begun < 5

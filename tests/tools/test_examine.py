"""Invariance and probes, on models whose scores are known rules."""

import copy
from types import SimpleNamespace

import datasets
import pytest
import torch
from torch import nn

from easyrlhf.data.render import Renderer
from easyrlhf.data.templates import CHAT_TEMPLATES
from easyrlhf.models.value_head import ScalarModel, new_head
from easyrlhf.rewards.model import ScoringModel
from easyrlhf.rewards.probes import (
    PARTS,
    Questions,
    cut_middle,
    evenly_spaced,
    examine,
    invariance,
    opening_sentence,
    probe_answers,
    probes,
    sampled_sequences,
)


class RuleModel(nn.Module):
    """A reward model whose scores are rule(ids, lengths)."""

    def __init__(self, rule, places=None):
        super().__init__()
        self.rule, self.head = rule, nn.Linear(1, 1)
        text = SimpleNamespace(max_position_embeddings=places)
        self.lm = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text))

    def scores(self, ids, lengths):
        return self.rule(ids, lengths).float()


@pytest.fixture
def rows(chatml_renderer):
    """rows(count) -> comparison rows of growing prompts and answers."""

    def make(count: int) -> datasets.Dataset:
        made = []
        for i in range(count):
            prompt = [{"role": "user", "content": f"Say {'very ' * (i % 7)}blue."}]
            chosen = [{"role": "assistant", "content": "The sky is blue. " + "Grass! " * (i % 5)}]
            rejected = [{"role": "assistant", "content": "No."}]
            made.append(
                {
                    "prompt_ids": chatml_renderer.prompt_ids(prompt),
                    "chosen_ids": chatml_renderer.completion_ids(prompt, chosen),
                    "rejected_ids": chatml_renderer.completion_ids(prompt, rejected),
                }
            )
        return datasets.Dataset.from_list(made)

    return make


def same(model, rows, renderer, dtype=torch.float32) -> dict:
    return invariance(ScoringModel(model, renderer, 4000), sampled_sequences(rows, 64), dtype)


def test_a_sample_is_spread_over_all_rows():
    assert evenly_spaced(5, 64) == [0, 1, 2, 3, 4]
    assert evenly_spaced(1000, 5) == [0, 249, 499, 749, 999]
    assert len(evenly_spaced(70, 64)) == 64


def test_it_looks_at_as_many_rows_as_it_is_told_and_says_how_far_it_is(rows, chatml_renderer):
    scorer, parts = ScoringModel(RuleModel(last_token), chatml_renderer, 4000), []
    found = examine(scorer, rows(40), torch.float32, most=8, advance=lambda: parts.append(1))
    assert found["probes"]["n"] == 8  # prompts
    assert found["invariance"]["n"] == 8  # both answers of 4 of the pairs
    assert len(parts) == PARTS
    assert examine(scorer, rows(40), torch.float32, most=1)["invariance"]["n"] == 2


def test_a_causal_model_scores_the_same_in_any_company(rows, tiny_lm, tokenizer, chatml_renderer):
    lm = tiny_lm(vocab=len(tokenizer))
    found = same(ScalarModel(lm, new_head(lm)), rows(40), chatml_renderer)
    assert found["n"] == 64 and found["limit"] == 1e-4
    assert 0 <= found["largest"] < 1e-5
    assert len(found["differences"]) == 5


def last_token(ids, lengths):
    return ids[torch.arange(len(ids)), lengths - 1] + lengths


@pytest.mark.parametrize(
    "leak, caught",
    [
        (lambda ids: 0.01 * ids.shape[1], "more padding"),
        (lambda ids: 0.01 * (ids[:, -1] == 0).all(), "more padding"),
        (lambda ids: 0.001 * (ids == 2).sum(1), "another padding token"),
        (lambda ids: 0.01 * (len(ids) == 2), "batches of 2"),
        (lambda ids: 0.01 * (len(ids) > 2), "batches of"),
        (lambda ids: 0.01 * torch.arange(len(ids)), "another place in the batch"),
    ],
    ids=["width", "padding", "padding token", "pairs", "batch size", "place"],
)
def test_whatever_leaks_into_the_score_is_caught(rows, chatml_renderer, leak, caught):
    clean = same(RuleModel(last_token), rows(40), chatml_renderer)
    assert clean["largest"] == 0
    found = same(RuleModel(lambda ids, lengths: last_token(ids, lengths) + leak(ids)), rows(40), chatml_renderer)
    assert found["largest"] > found["limit"]
    assert any(what.startswith(caught) and value > found["limit"] for what, value in found["differences"].items())


def test_a_place_that_only_another_order_gives_is_tried(rows, chatml_renderer):
    last = sampled_sequences(rows(40), 64)[-1]

    def rule(ids, lengths):
        leads = len(ids) > 2 and ids[0, : len(last)].tolist() == last
        return last_token(ids, lengths) + 0.01 * leads

    found = same(RuleModel(rule), rows(40), chatml_renderer)
    assert [what for what, value in found["differences"].items() if value > 0] == ["another place in the batch"]


def test_dropout_is_off_while_it_looks(rows, tiny_lm, tokenizer, chatml_renderer):
    lm = tiny_lm(vocab=len(tokenizer), attention_dropout=0.5, max_position_embeddings=512)
    model = ScalarModel(lm, new_head(lm)).train()
    found = examine(ScoringModel(model, chatml_renderer, 500), rows(6), torch.float32, most=64)
    assert found["invariance"]["largest"] < 1e-4
    assert model.training


def test_differences_are_relative_to_large_scores_and_bf16_is_allowed_more(rows, chatml_renderer):
    def rule(ids, lengths):
        return 100.0 + 1.0 * (len(ids) > 1)

    found = same(RuleModel(lambda i, n: rule(i, n) * torch.ones(len(i))), rows(4), chatml_renderer, torch.bfloat16)
    assert found["largest"] == pytest.approx(0.01) and found["limit"] == 5e-2


def test_padding_stays_within_the_places_of_the_model(rows, tiny_lm, tokenizer, chatml_renderer):
    """GPT-2 has an embedding for each of 40 places, and no more."""
    sample = rows(12)
    longest = max(map(len, sampled_sequences(sample, 64)))
    lm = tiny_lm("gpt2", vocab=len(tokenizer), n_positions=longest + 2)
    assert same(ScalarModel(lm, new_head(lm)), sample, chatml_renderer)["largest"] < 1e-4


# --- probes


def test_probes_are_compared_with_the_chosen_and_the_rejected_answers(rows, chatml_renderer):
    sample = rows(10)
    found = probes(ScoringModel(RuleModel(lambda ids, lengths: lengths), chatml_renderer, 2000), sample, 64)
    prompts = [len(ids) for ids in sample["prompt_ids"]]
    chosen = [p + len(ids) for p, ids in zip(prompts, sample["chosen_ids"], strict=True)]
    rejected = [p + len(ids) for p, ids in zip(prompts, sample["rejected_ids"], strict=True)]
    assert found["n"] == 10
    assert found["chosen"] == pytest.approx(sum(chosen) / 10)
    assert found["rejected"] == pytest.approx(sum(rejected) / 10)
    empty = found["answers"][0]
    assert empty["name"] == "empty"
    assert empty["score"] == pytest.approx(sum(p + 1 for p in prompts) / 10)  # the end of turn alone
    assert empty["over_chosen"] == pytest.approx(empty["score"] - found["chosen"])
    assert empty["over_rejected"] == pytest.approx(empty["score"] - found["rejected"])
    assert [answer["above_chosen"] for answer in found["answers"]] == [0.0, pytest.approx(0.2), 1.0, 1.0]


def test_the_probes_say_what_their_names_promise(rows, chatml_renderer):
    sample = list(rows(10))[4:8]
    texts = {
        name: [chatml_renderer.decode(ids) for _, ids in answers]
        for name, answers in probe_answers(chatml_renderer, sample)
    }
    assert list(texts) == ["empty", "the prompt echoed", "one sentence 20 times", "4 answers joined"]
    assert texts["empty"] == [""] * 4
    assert texts["the prompt echoed"][0] == "Say very very very very blue."
    assert texts["one sentence 20 times"][0] == " ".join(["The sky is blue."] * 20)
    answers = [chatml_renderer.decode(row["chosen_ids"]).strip() for row in sample]
    assert texts["4 answers joined"][1] == "\n\n".join(answers[1:] + answers[:1])
    for _, answers in probe_answers(chatml_renderer, sample):
        assert all(ids[-1] == chatml_renderer.end_of_turn_id for _, ids in answers)


@pytest.mark.parametrize("template", ["chatml", "hh", "llama3"])
def test_the_last_question_is_found_in_the_tokens_of_any_template(tokenizer, template):
    own = copy.deepcopy(tokenizer)
    own.chat_template = CHAT_TEMPLATES[template]
    renderer = Renderer(own)
    questions = Questions(renderer)
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Why is the sky blue?"},
    ]
    ids = renderer.prompt_ids(turns)
    assert questions.last(ids) == "Why is the sky blue?"
    assert questions.last(renderer.prompt_ids(turns[1:2])) == "Hello?"
    answer = [{"role": "assistant", "content": "Hello user."}]
    assert questions.answered(ids, "Hello user.") == (ids, renderer.completion_ids(turns, answer))


def test_a_plain_prompt_is_its_own_question(chatml_renderer):
    questions = Questions(chatml_renderer)
    ids = chatml_renderer.prompt_ids("The sky is")
    assert questions.last(ids) == "The sky is"
    assert questions.answered(ids, " blue") == (ids, chatml_renderer.completion_ids("The sky is", " blue"))


def test_the_first_sentence_of_an_answer():
    assert opening_sentence("Blue. Because of air.") == "Blue."
    assert opening_sentence("a list:\n- one") == "a list:"
    assert opening_sentence("3.14 is pi") == "3.14 is pi"
    assert opening_sentence("") == ""


def test_answers_that_are_too_long_lose_their_middle():
    assert cut_middle([1, 1], [5, 6, 7, 9], None) == [1, 1, 5, 6, 7, 9]
    assert cut_middle([1, 1], [5, 6, 7, 9], 6) == [1, 1, 5, 6, 7, 9]
    assert cut_middle([1, 1], [5, 6, 7, 9], 4) == [1, 1, 5, 9]


def test_long_probes_fit_into_the_places_of_the_model(rows, tiny_lm, tokenizer, chatml_renderer):
    sample = rows(6)
    lm = tiny_lm("gpt2", vocab=len(tokenizer), n_positions=max(map(len, sampled_sequences(sample, 64))) + 2)
    scorer = ScoringModel(ScalarModel(lm, new_head(lm)).train(), chatml_renderer, 500)
    found = examine(scorer, sample, torch.float32, most=64)
    assert len(found["probes"]["answers"]) == 4


def test_probes_of_a_template_that_opens_a_thought_answer_without_it(tokenizer):
    """Prompts in the data end before the thought, or in it where the answers think."""
    own = copy.deepcopy(tokenizer)
    own.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if m['reasoning_content'] %}{{ '<think>\n' + m['reasoning_content'] + '\n</think>\n' }}{% endif %}"
        "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
    )
    renderer = Renderer(own)
    questions = Questions(renderer)
    prompt, plain = [{"role": "user", "content": "Why?"}], [{"role": "assistant", "content": "Hello."}]
    thoughtful = [plain[0] | {"reasoning_content": "Hm."}]
    text = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    for answers in ([plain], [thoughtful], [plain, thoughtful]):
        ids, _ = renderer.answers(prompt, answers)
        assert questions.last(ids) == "Why?"
        asked, answer = questions.answered(ids, "Hello.")
        assert [own.decode(asked), own.decode(answer)] == [text, "Hello.<|im_end|>"]
        assert [own.decode(part) for part in questions.answered(ids, "")] == [text, "<|im_end|>"]

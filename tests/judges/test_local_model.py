"""A model in this process as a judge: its letters' probabilities are those of transformers."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from easyrlhf.config import CompareConfig, PolicyConfig
from easyrlhf.config.base import SettingError
from easyrlhf.errors import InputError
from easyrlhf.judges.asking import Ask
from easyrlhf.judges.judges import find_judge
from easyrlhf.judges.letters import VERDICTS, read_verdict
from easyrlhf.judges.local_model import LocalModel
from easyrlhf.judges.pairs import Pair
from easyrlhf.judges.questions import pair_question

PAIRS = [Pair([{"role": "user", "content": "Name a colour."}], "blue", "red, or so", {}), Pair("2 + 2 =", "4", "5", {})]


@pytest.fixture
def folder(model_folder):
    return str(model_folder("judge", max_position_embeddings=2048))


def local(folder: str, **more) -> LocalModel:
    settings = {"devices": "cpu", "max_new_tokens": 5} | more
    return LocalModel(PolicyConfig(model=folder, **settings), 2, "--judge_dir", 0.0)


def test_log_probabilities_are_those_of_transformers_over_all_variants_of_a_letter(folder):
    tokenizer, lm = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    asks = [Ask("letter", pair_question(pair), VERDICTS) for pair in PAIRS]
    for ask, reply in zip(asks, local(folder).replies(asks), strict=True):
        system, user = (turn["content"] for turn in ask.messages)
        asked = [{"role": "user", "content": f"{system}\n\n{user}"}]
        ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            logprobs = lm(**ids).logits[0, -1].log_softmax(-1)
        variants = {letter: [] for letter in VERDICTS}
        for i in range(len(tokenizer)):
            text = tokenizer.decode([i]).strip(" \n\"'*([)].")
            if text in variants and i not in tokenizer.all_special_ids:
                variants[text].append(i)
        a, b, c = (logprobs[ids].exp().sum().item() for ids in variants.values())
        found = read_verdict(reply)
        assert found.prefers_a == pytest.approx((a + c / 2) / (a + b + c), abs=1e-5)
        assert found.odds == pytest.approx(math.log(a / b), abs=1e-4)
        assert found.bounded == 0


def test_text_is_greedy_at_temperature_0_and_the_same_for_the_same_key(folder):
    asks = [Ask("x", [{"role": "user", "content": text}], key=(1, i)) for i, text in enumerate(("red", "blue", "cat"))]
    judge = local(folder)
    assert judge.replies(asks) == [one for ask in asks for one in judge.replies([ask])]
    warm = [Ask(ask.name, ask.messages, temperature=1.0, key=ask.key) for ask in asks]
    assert judge.replies(warm) == [one for ask in warm for one in judge.replies([ask])]
    assert judge.replies(warm) != judge.replies(asks)


def test_a_question_that_is_too_long_has_no_reply(model_folder):
    folder = str(model_folder("short", max_position_embeddings=64))
    long, short = ([{"role": "user", "content": "red " * count}] for count in (100, 2))
    replies = local(folder).replies([Ask("x", long, VERDICTS), Ask("x", short, VERDICTS), Ask("x", long)])
    assert [read_verdict(one).prefers_a is None for one in replies] == [True, False, True]
    assert not replies[2].finished and replies[2].said == ""


def test_compare_takes_it_as_a_judge_of_pairs(folder):
    judge = find_judge(CompareConfig(models="a,b", prompts="p", judge_dir=folder, devices="cpu"))
    [reply] = local(folder).replies([Ask("letter", pair_question(PAIRS[0]), VERDICTS)])
    assert judge(PAIRS[0]).prefers_a == pytest.approx(read_verdict(reply).prefers_a)
    assert 0 < judge(PAIRS[0]).prefers_a < 1


def test_a_model_without_a_template_cannot_be_asked(folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = None
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "bare")
    tokenizer.save_pretrained(tmp_path / "bare")
    with pytest.raises(InputError, match=r"--judge_dir .*bare: has no chat template"):
        local(str(tmp_path / "bare"))


def test_two_judges_are_one_too_many():
    with pytest.raises(SettingError, match=r"judge_dir d: judge f\.py:g judges already; give one of the two"):
        CompareConfig(models="a,b", prompts="p", judge_dir="d", judge="f.py:g")

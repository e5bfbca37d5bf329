"""Ids that no token stands behind, and ids that end an answer."""

import json
from typing import ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from easyrlhf.models.folder import save_lm
from easyrlhf.models.load import ends_of, load_causal_lm
from easyrlhf.models.logprobs import token_logprobs, token_logprobs_and_entropies
from easyrlhf.models.parts import leave_out_spare
from easyrlhf.models.vocabulary import spare_ids
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler

WORDS = 280  # of the ChatML tokenizer


class Holed:
    """A tokenizer whose ids have a hole, and whose one token stands under two ids."""

    added_tokens_decoder: ClassVar = {5: "<|end|>"}

    def get_vocab(self):
        return {"a": 0, "b": 3}

    def convert_ids_to_tokens(self, i):
        return ["a", None, "b", "b"][i]


def test_ids_without_a_token_are_found_within_and_behind_a_vocabulary(tokenizer):
    assert spare_ids(Holed(), 7) == [1, 4, 6]
    assert spare_ids(tokenizer, WORDS + 3) == [280, 281, 282]
    assert spare_ids(tokenizer, WORDS) == []


@pytest.fixture
def roomy(model_folder, tokenizer):
    """A model of 300 rows for 280 tokens, of which the 20 spare ones are by far the likeliest."""
    lm = AutoModelForCausalLM.from_pretrained(str(model_folder(vocab=WORDS + 20)))
    lm.lm_head.weight.data[WORDS:] = 20 * lm.lm_head.weight.data[:20]
    lm = lm.double().eval()
    assert lm(torch.tensor([[5, 6]])).logits[0, -1].softmax(-1)[WORDS:].sum() > 0.5
    leave_out_spare(lm, tokenizer)
    return lm


def test_spare_rows_are_never_drawn_and_every_probability_is_that_among_the_tokens(roomy):
    prompt, keys = [5, 6, 7], [(number,) for number in range(8)]
    samples = HFSampler(roomy, 0, Ending((2,)), 10, 1.0, 4).generate([prompt] * 8, keys)
    assert samples.completion_ids.max() < WORDS
    for row, mask, logprobs in zip(samples.completion_ids, samples.completion_mask, samples.logprobs, strict=True):
        ids = row[mask.bool()].tolist()
        trimmed = roomy(torch.tensor([prompt + ids])).logits[0, 2:-1, :WORDS].log_softmax(-1)
        by_hand = trimmed[range(len(ids)), ids]
        torch.testing.assert_close(logprobs[: len(ids)], by_hand, rtol=0, atol=1e-9)
        families = [(prompt, [ids])]
        torch.testing.assert_close(token_logprobs(roomy, families, "off"), by_hand, rtol=0, atol=1e-9)
        found, entropies = token_logprobs_and_entropies(roomy, families, "off")
        torch.testing.assert_close(found, by_hand, rtol=0, atol=1e-9)
        torch.testing.assert_close(entropies, -(trimmed.exp() * trimmed).sum(-1), rtol=0, atol=1e-9)


def test_spare_rows_get_no_gradient(roomy):
    token_logprobs(roomy, [([5, 6], [[7, 2]])], "off").sum().backward()
    assert roomy.lm_head.weight.grad[WORDS:].abs().max() == 0
    assert roomy.lm_head.weight.grad[:WORDS].abs().min() > 0


@pytest.mark.parametrize(
    "named, expected",
    [
        ([2, 7], (2, 7)),
        ([7, 2], (2, 7)),  # the template's comes first
        ([7, 8, 9999], (2, 7, 8)),  # 9999 is no token
        (7, (2, 7)),
        (None, (2,)),
    ],
)
def test_every_end_that_generation_config_names_ends_an_answer_and_is_kept(
    model_folder, tokenizer, tmp_path, named, expected
):
    folder = model_folder(eos_token_id=None)
    GenerationConfig(eos_token_id=named).save_pretrained(folder)
    assert ends_of(str(folder), tokenizer) == expected
    lm = load_causal_lm(str(folder), tokenizer, dtype=torch.float32)
    save_lm(tmp_path / "saved", lm, tokenizer)
    kept = json.loads((tmp_path / "saved/generation_config.json").read_text())["eos_token_id"]
    assert kept == (list(expected) if len(expected) > 1 else expected[0])
    assert ends_of(str(tmp_path / "saved"), tokenizer) == expected
    assert json.loads((tmp_path / "saved/config.json").read_text())["eos_token_id"] == 2


@pytest.mark.parametrize(
    "settings, kept",
    [
        ({"temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"do_sample": True, "temperature": 0.6}, {"do_sample": True, "temperature": 0.6}),
        ({"early_stopping": True, "length_penalty": 2.0}, {}),
        ({"top_k": -5}, {}),
    ],
)
def test_settings_that_transformers_will_not_save_cost_no_run(model_folder, tokenizer, tmp_path, settings, kept):
    """Llama 2's own folder has a temperature and no do_sample."""
    folder = model_folder()
    (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [2, 7]}))
    save_lm(tmp_path / "saved", load_causal_lm(str(folder), tokenizer, dtype=torch.float32), tokenizer)
    found = json.loads((tmp_path / "saved/generation_config.json").read_text())
    ours = {"eos_token_id", "pad_token_id", "transformers_version"}
    assert {name: value for name, value in found.items() if name not in ours} == kept
    assert found["eos_token_id"] == [2, 7]


@pytest.mark.parametrize("named", [2.0, "2", [7.0, "7"], [[7]], True, {"a": 7}])
def test_what_is_no_id_ends_nothing(model_folder, tokenizer, named):
    folder = model_folder()
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": named}))
    assert ends_of(str(folder), tokenizer) == (2,)


def test_a_list_set_on_a_model_ends_answers_and_a_familys_default_does_not(model_folder, tokenizer):
    assert ends_of(str(model_folder("ordinary", eos_token_id=7)), tokenizer) == (2,)  # a word that config.json has
    assert ends_of(str(model_folder("special", eos_token_id=1)), tokenizer) == (2, 1)  # <|im_start|>
    folder = model_folder("listed", eos_token_id=7)
    lm = AutoModelForCausalLM.from_pretrained(str(folder))
    lm.generation_config.eos_token_id = [7, 9]
    lm.save_pretrained(folder)
    assert ends_of(str(folder), tokenizer) == (2, 7, 9)
    (folder / "generation_config.json").unlink()
    assert ends_of(str(folder), tokenizer) == (2,)

"""Prompts computed once for several completions: the numbers and gradients of every completion behind its own copy."""

import pytest
import torch
from torch import tensor as T

from easyrlhf.models import flat_rows, prefix_sharing
from easyrlhf.models.load import disable_dropout
from easyrlhf.models.logprobs import sequence_logprobs
from easyrlhf.models.prefix_sharing import completion_states, enable_sharing, sharing_of, worth_sharing
from easyrlhf.models.value_head import ScalarModel, new_head

KINDS = ["llama", "qwen2", "gpt-neox", "gpt2"]
FAMILIES = [  # a pair, three answers, a single one behind the shortest of prompts
    ([5, 6, 7, 8, 9, 10], [[20, 21, 22], [23, 24, 25, 26, 27]]),
    ([11, 12], [[30], [31, 32, 33, 34, 35, 36, 37], [38, 39]]),
    ([13], [[40, 41]]),
]
EXACT = {"rtol": 0, "atol": 1e-12}  # in float64, where a model computes nothing in float32
IN_PARTS_FLOAT32 = {"rtol": 1e-6, "atol": 1e-7}


@pytest.fixture
def sharing_lm(tiny_lm):
    """sharing_lm(family) -> a model in float64 that can share prompts."""

    def make(family: str):
        lm = tiny_lm(family, dtype=torch.float64)
        disable_dropout(lm)
        assert enable_sharing(lm, max_length=64)
        return lm

    return make


def alone(lm, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """log π(completion | prompt) from transformers' own logits of this one row."""
    logits = lm(input_ids=T([prompt + completion]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, T(completion)[:, None]).sum()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", KINDS)
def test_logprobs_and_gradients_are_those_of_every_row_alone(sharing_lm, family, checkpointing):
    lm = sharing_lm(family)
    if checkpointing:
        lm.train().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    weights = T([0.3, -1.0, 0.7, 2.0, -0.4, 1.1], dtype=torch.float64)  # no two completions cancel

    found = sequence_logprobs(lm, FAMILIES, "on")
    (weights * found).sum().backward()
    gradients = {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}
    lm.zero_grad()
    expected = torch.stack([alone(lm, prompt, ids) for prompt, completions in FAMILIES for ids in completions])
    (weights * expected).sum().backward()

    torch.testing.assert_close(found, expected, **IN_PARTS_FLOAT32)
    touched = {name for name, p in lm.named_parameters() if p.grad is not None}
    assert gradients.keys() == touched
    for name, parameter in lm.named_parameters():
        if name in touched:
            scale = parameter.grad.abs().max().item()
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=1e-6 * scale + 1e-12)


@torch.no_grad()
@pytest.mark.parametrize("share", ["on", "off"])
def test_scores_are_read_at_each_completions_last_token(sharing_lm, share):
    model = ScalarModel(lm := sharing_lm("gpt2"), new_head(lm))
    expected = [
        model.head(lm.base_model(input_ids=T([prompt + ids])).last_hidden_state[0, -1].float()).item()
        for prompt, completions in FAMILIES
        for ids in completions
    ]
    assert model.completion_scores(FAMILIES, share).tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("share", ["on", "auto", "off"])
@pytest.mark.parametrize("family", KINDS)
def test_values_and_gradients_are_those_of_every_row_alone(sharing_lm, family, share):
    model = ScalarModel(lm := sharing_lm(family), new_head(lm))
    found = model.completion_values(FAMILIES, share)
    weights = torch.linspace(-1, 2, len(found))
    (weights * found).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    expected = torch.cat(
        [
            model.head(lm.base_model(input_ids=T([prompt + ids])).last_hidden_state[0, len(prompt) - 1 : -1].float())
            for prompt, completions in FAMILIES
            for ids in completions
        ]
    ).squeeze(1)
    (weights * expected).sum().backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)  # the head is in float32
    assert expected.std() > 0.1
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            scale = parameter.grad.abs().max().item()
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=0, atol=2e-6 * scale + 1e-12)


def test_where_nobody_has_siblings_rows_go_as_ever(sharing_lm):
    """A flat row would save the padding, and cost more than that."""
    lm = sharing_lm("llama")
    alike, mixed = [([5, 6], [[7]]), ([8], [[9] * 30])], [([5, 6] * 9, [[7], [8]]), ([8] * 9, [[9] * 8])]
    assert not worth_sharing(lm, alike)
    assert worth_sharing(lm, mixed)


@torch.no_grad()
def test_states_that_predict_a_completion_begin_with_its_prompts_last(sharing_lm):
    lm = sharing_lm("gpt2")
    together, apart = (completion_states(lm, FAMILIES, share) for share in ("on", "off"))
    assert together.hidden.shape[0] == 6 + 8 + 2 + 10 + 1 + 2  # every token once
    for name in ("before", "last"):
        rows = [states.hidden[getattr(states, name)] for states in (together, apart)]
        torch.testing.assert_close(*rows, **EXACT)
    assert together.before[0] == together.before[3] == 5 and together.before[8] == 7
    assert together.targets.tolist() == [20, 21, 22, 23, 24, 25, 26, 27, 30, 31, *range(32, 38), 38, 39, 40, 41]
    assert together.owners.tolist() == [0] * 3 + [1] * 5 + [2] + [3] * 7 + [4] * 2 + [5] * 2


@torch.no_grad()
@pytest.mark.parametrize("family", KINDS)
def test_a_model_that_can_share_is_otherwise_the_same(tiny_lm, sharing_lm, family):
    plain, able = tiny_lm(family, dtype=torch.float64), sharing_lm(family)
    ids, mask = T([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]]), T([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    ours, theirs = (lm(input_ids=ids, attention_mask=mask).logits for lm in (able, plain))
    torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], **EXACT)
    written = [lm.generate(ids, attention_mask=mask, max_new_tokens=5, do_sample=False) for lm in (able, plain)]
    assert written[0].tolist() == written[1].tolist()


def test_the_attention_of_a_model_that_can_share_is_not_written_down(sharing_lm, tmp_path):
    sharing_lm("llama").save_pretrained(tmp_path)
    assert prefix_sharing.SHARING not in (tmp_path / "config.json").read_text()


@pytest.mark.parametrize("share", ["auto", "on", "off"])
def test_a_model_that_cannot_share_is_asked_for_nothing(tiny_lm, sharing_lm, share):
    assert sharing_of(sharing_lm("llama"), share) == share
    assert sharing_of(tiny_lm("llama"), share) == "off"


@pytest.mark.parametrize("family", ["bloom", "falcon", "gemma2"])
def test_models_with_attention_of_their_own_are_left_alone(tiny_lm, family):
    lm = tiny_lm(family)
    before = lm.config._attn_implementation
    assert not enable_sharing(lm, max_length=64)
    assert lm.config._attn_implementation == before
    apart = completion_states(lm, FAMILIES, "on")  # asked for, and computed apart
    assert apart.hidden.shape[0] == 6 * 11  # six rows as long as the longest


def test_a_window_matters_when_rows_can_be_longer_than_it(tiny_lm):
    lm = tiny_lm("mistral")
    lm.config.sliding_window = 20
    assert not enable_sharing(lm, max_length=21)
    assert enable_sharing(lm, max_length=19)


def test_a_model_that_gives_other_states_when_prompts_are_shared_is_left_alone(tiny_lm, monkeypatch):
    original = flat_rows.Layout.completion_mask.func
    mask = property(lambda layout: torch.ones_like(original(layout)))
    monkeypatch.setattr(flat_rows.Layout, "completion_mask", mask)  # completions see what comes after
    lm = tiny_lm("llama")
    assert not enable_sharing(lm, max_length=64)
    assert lm.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("prompt", "completions", "shared"),
    [
        (100, [50, 50], True),  # 200 tokens in place of 300
        (100, [50], False),  # nothing to share
        (2, [100, 100], False),  # two tokens of 204 saved, more attention
        (30, [10, 40], True),  # 80 in place of 140
        (20, [5] * 8, True),  # 60 in place of 200
    ],
)
def test_auto_shares_where_it_saves(sharing_lm, prompt, completions, shared):
    lm = sharing_lm("llama")
    family = ([5] * prompt, [[6] * length for length in completions])
    tokens = prompt + sum(completions), len(completions) * (prompt + max(completions))
    states = completion_states(lm, [family], "auto")
    assert states.hidden.shape[0] == tokens[not shared]

"""The scalar head: where it reads, and how its file is written and refused."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch import tensor as T

from easyrlhf.errors import InputError
from easyrlhf.models.lora import LoraSettings, add_lora
from easyrlhf.models.value_head import HEAD_FILE, ScalarModel, check_head_file, load_head, new_head, save_head

WEIGHT, BIAS = "v_head.summary.weight", "v_head.summary.bias"  # the layout of LLaMA-Factory and ms-swift


def ramp_head(hidden_size: int = 32) -> nn.Linear:
    """A head whose every number differs."""
    head = nn.Linear(hidden_size, 1)
    head.weight.data = torch.linspace(-1, 1, hidden_size)[None]
    head.bias.data = T([0.25])
    return head


@torch.no_grad()
def test_scores_are_read_at_the_last_token_and_values_one_before_each_token(echo_lm):
    head = nn.Linear(1, 1)
    head.weight.data, head.bias.data = T([[10.0]]), T([0.5])  # 10 · id + ½
    model = ScalarModel(echo_lm, head)
    input_ids = T([[11, 12, 13, 14], [21, 22, 23, 0]])
    assert model.scores(input_ids, T([4, 3])).tolist() == [140.5, 230.5]
    families = [([11, 12], [[13, 14]]), ([21], [[22, 23]])]
    assert model.completion_values(families, "off").tolist() == [120.5, 130.5, 210.5, 220.5]


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt-neox"])
def test_scores_and_values_are_those_of_each_row_alone(tiny_lm, family):
    lm, head = tiny_lm(family, dtype=torch.float64), ramp_head()
    rows = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
    alone = [  # [S] per row: the last hidden states times the head, all by transformers and hand
        lm(input_ids=T([row]), output_hidden_states=True).hidden_states[-1][0] @ head.weight[0].double() + 0.25
        for row in rows
    ]
    model = ScalarModel(lm, head)
    input_ids = T([row + [33] * (5 - len(row)) for row in rows])
    families = [(rows[0][:2], [rows[0][2:]]), (rows[1][:1], [rows[1][1:]]), (rows[2][:1], [rows[2][1:]])]
    scores, values = model.scores(input_ids, T([5, 2, 3])), model.completion_values(families, "off")
    torch.testing.assert_close(scores.double(), torch.stack([row[-1] for row in alone]), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        values.double(), torch.cat([alone[0][1:4], alone[1][:1], alone[2][:2]]), rtol=0, atol=1e-5
    )


def test_only_the_untied_language_model_head_is_frozen(tiny_lm):
    untied, tied = tiny_lm("llama"), tiny_lm("llama-tied")
    for lm in (untied, tied):
        ScalarModel(lm, new_head(lm))
    assert [name for name, p in untied.named_parameters() if not p.requires_grad] == ["lm_head.weight"]
    assert [name for name, p in tied.named_parameters() if not p.requires_grad] == []


def test_a_new_head_is_normal_with_the_width_of_stiennon_and_a_zero_head_says_zero(echo_lm):
    size = 40_000
    echo_lm.config.get_text_config = lambda: type("C", (), {"hidden_size": size})
    torch.manual_seed(0)
    head = new_head(echo_lm)
    # 1/√40,001 = 0.0049999; the estimate of it has a relative error of 1/√80,000 = 0.35 %
    assert head.weight.std().item() == pytest.approx(1 / math.sqrt(size + 1), rel=0.015)
    assert abs(head.weight.mean().item()) < 1e-4
    assert head.bias.item() == 0.0
    zero = new_head(echo_lm, zero=True)
    assert (zero.weight.abs().max().item(), zero.bias.item()) == (0.0, 0.0)


def test_the_head_of_a_lora_model_fits_its_base(tiny_lm):
    lm = add_lora(tiny_lm(), LoraSettings(r=2, alpha=4, dropout=0.0, target="all-linear"))
    model = ScalarModel(lm, new_head(lm))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {"head.weight", "head.bias"} == {name for name in trained if "lora_" not in name}


def test_a_saved_head_is_read_back_exactly_and_has_the_public_layout(tmp_path, tiny_lm):
    head = ramp_head()
    save_head(head, tmp_path)
    tensors = load_file(tmp_path / "value_head.safetensors")
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {WEIGHT: (1, 32), BIAS: (1,)}
    again = load_head(str(tmp_path), tiny_lm())
    assert torch.equal(again.weight, torch.linspace(-1, 1, 32)[None])
    assert again.bias.item() == 0.25
    assert again.weight.requires_grad


def test_an_old_bin_head_is_read(tmp_path, tiny_lm):
    torch.save({WEIGHT: torch.linspace(0, 1, 32)[None], BIAS: T([7.0])}, tmp_path / "value_head.bin")
    head = load_head(str(tmp_path), tiny_lm())
    assert torch.equal(head.weight, torch.linspace(0, 1, 32)[None])
    assert head.bias.item() == 7.0


GOOD = {WEIGHT: torch.zeros(1, 32), BIAS: torch.zeros(1)}


@pytest.mark.parametrize(
    "tensors, named",
    [
        ({"summary.weight": GOOD[WEIGHT], BIAS: GOOD[BIAS]}, "summary.weight [1, 32]"),
        ({WEIGHT: torch.zeros(1, 31), BIAS: GOOD[BIAS]}, "v_head.summary.weight [1, 31]"),
        ({WEIGHT: torch.zeros(32, 1), BIAS: GOOD[BIAS]}, "v_head.summary.weight [32, 1]"),
        ({WEIGHT: torch.zeros(2, 32), BIAS: torch.zeros(2)}, "v_head.summary.bias [2]"),
        (GOOD | {"v_head.extra": torch.zeros(3)}, "v_head.extra [3]"),
        ({WEIGHT: GOOD[WEIGHT]}, "v_head.summary.weight [1, 32]"),
        ({}, "nothing"),
    ],
    ids=["another name", "other model", "transposed", "two classes", "extra key", "no bias", "empty"],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_any_other_head_is_refused_by_name(tmp_path, tiny_lm, tensors, named, suffix):
    file = (tmp_path / HEAD_FILE).with_suffix(suffix)
    save_file(tensors, file) if suffix == ".safetensors" else torch.save(tensors, file)
    with pytest.raises(InputError) as caught:
        load_head(str(tmp_path), tiny_lm())
    message = str(caught.value)
    assert message.startswith(f"{file}: holds ")
    assert named in message
    assert "v_head.summary.bias [1], v_head.summary.weight [1, 32]" in message  # what it should hold


def test_a_folder_without_a_head_is_not_a_reward_model(tmp_path):
    with pytest.raises(InputError, match=r"has no value_head.safetensors, so it is not a reward model"):
        check_head_file(str(tmp_path), 32)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_a_broken_head_file_is_bad_input(tmp_path, suffix):
    file = (tmp_path / HEAD_FILE).with_suffix(suffix)
    file.write_bytes(b"\x10\x00 half a file")
    with pytest.raises(InputError) as caught:
        check_head_file(str(tmp_path), 32)
    assert str(file) in str(caught.value)

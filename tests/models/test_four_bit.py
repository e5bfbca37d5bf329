"""The base in 4 bits: the numbers that NF4 stands for, gradients through it, what is saved of it, what it takes."""

import copy

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from easyrlhf.errors import InputError
from easyrlhf.models.folder import save_lm
from easyrlhf.models.four_bit import bytes_of, check_four_bit, in_full, is_quantised, layers_to_quantise, quantise
from easyrlhf.models.load import load_causal_lm
from easyrlhf.models.logprobs import row_token_logprobs
from easyrlhf.models.lora import LoraSettings, add_lora
from easyrlhf.models.value_head import ScalarModel, new_head

CPU = torch.device("cpu")
WIDE = {"hidden_size": 64, "intermediate_size": 128}  # rows of whole blocks
IDS, MASK = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 3]]), torch.tensor([[0, 1, 1, 1], [0, 0, 1, 1]])
LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target": "all-linear"}
# Dettmers et al. 2023, appendix E
NF4 = torch.tensor(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ]
)


def by_hand(layer) -> torch.Tensor:
    """The weights of a 4-bit layer, from its codes and scales."""
    state, codes = layer.weight.quant_state, layer.weight.data.flatten()
    entries = torch.stack([codes >> 4, codes & 15], 1).flatten().long()
    blocks = state.state2.absmax.repeat_interleave(256)[: len(state.absmax)]
    scales = state.state2.code[state.absmax.long()] * blocks + state.offset
    return (NF4[entries] * scales.repeat_interleave(64)[: len(entries)]).view(state.shape)


def shaken(lora):
    """The model with random numbers in its adapter: a fresh one changes nothing."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lora.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=noise))
    return lora


@pytest.fixture
def four_bit_lora(tiny_lm):
    """four_bit_lora(family, **add_lora's) -> a LoRA model on a base in 4 bits."""

    def make(family="llama", dtype=torch.float32, new_tokens=(), **how):
        lm = tiny_lm(family, dtype=dtype, **WIDE)
        quantise(lm, CPU, tuple((how.get("modules_to_save") or "").split(",")) if "modules_to_save" in how else ())
        return shaken(add_lora(lm, LoraSettings(**LORA | how), new_tokens))

    return make


@pytest.mark.parametrize("family", ["llama", "llama-tied", "qwen2"])
def test_a_layer_is_what_its_codes_stand_for(tiny_lm, family, monkeypatch):
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)  # as on processors that have it
    lm, before = tiny_lm(family, **WIDE), tiny_lm(family, **WIDE)
    quantise(lm, CPU)
    found = {name: module for name, module in lm.named_modules() if is_quantised(module)}
    assert len(found) == 2 * 7 and not is_quantised(lm.get_output_embeddings())
    for name, layer in found.items():
        assert not layer.support_avx512bf16_for_cpu
        rows, expected = torch.randn(3, layer.in_features), by_hand(layer)
        bias = before.get_submodule(name).bias
        torch.testing.assert_close(layer(rows), nn.functional.linear(rows, expected, bias), rtol=1e-5, atol=1e-5)
        original = before.get_submodule(name).weight
        gap = (expected - original).abs().flatten() / original.abs().max()
        assert 0.01 < gap.max() < 0.2  # half of the widest step of NF4, 0.30, and what the scales lose


@pytest.mark.parametrize("family", ["llama", "llama-tied", "qwen2"])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_the_numbers_that_the_codes_stand_for(four_bit_lora, family, training):
    lora = four_bit_lora(family).train(training)
    plain = add_lora(by_hand_lm(lora), LoraSettings(**LORA)).train(training)
    with torch.no_grad():
        for ours, theirs in zip(trained(plain).values(), trained(lora).values(), strict=True):
            ours.copy_(theirs)
        row_token_logprobs(lora, IDS, MASK)  # a pass without gradients comes first, as in a rollout
    losses = [row_token_logprobs(model, IDS, MASK).sum() for model in (lora, plain)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-5)
    for loss in losses:
        loss.backward()
    for name, parameter in trained(lora).items():
        assert parameter.grad.abs().max() > 1e-5, name
        torch.testing.assert_close(parameter.grad, trained(plain)[name].grad, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in lora.parameters() if not p.requires_grad)


def trained(model) -> dict:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def by_hand_lm(lora):
    """The base below an adapter with plain layers of the numbers that its codes stand for."""
    lm = copy.deepcopy(lora).unload()
    for name, layer in [(n, m) for n, m in lm.named_modules() if is_quantised(m)]:
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False)
        plain.weight, plain.bias = nn.Parameter(by_hand(layer)), layer.bias
        lm.set_submodule(name, plain)
    lm.is_loaded_in_4bit = False
    return lm


def test_a_scalar_model_learns_through_it(four_bit_lora):
    model = ScalarModel(lora := four_bit_lora(), new_head(lora))
    model.scores(IDS, torch.tensor([4, 3])).sum().backward()
    first = "lm.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    assert dict(model.named_parameters())[first].grad.abs().max() > 1e-6


@pytest.mark.parametrize("how", [{}, {"modules_to_save": "lm_head"}, {"new_tokens": [3, 4]}])
def test_the_saved_folder_is_the_trained_model(four_bit_lora, tokenizer, tmp_path, how):
    lora = four_bit_lora("qwen2", **how)
    asked = lora(input_ids=IDS).logits.detach()
    save_lm(tmp_path / "m", lora, tokenizer)
    torch.testing.assert_close(lora(input_ids=IDS).logits, asked)  # it stays as it was
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert not hasattr(merged.config, "quantization_config")
    torch.testing.assert_close(merged(IDS).logits, asked, rtol=1e-4, atol=1e-4)
    base = by_hand_lm(lora)
    alone = PeftModel.from_pretrained(base, tmp_path / "m" / "adapter")
    torch.testing.assert_close(alone(input_ids=IDS).logits, asked, rtol=1e-4, atol=1e-4)


def test_in_full_shares_nothing(four_bit_lora):
    lora = four_bit_lora(modules_to_save="lm_head")
    before = {name: parameter.clone() for name, parameter in lora.named_parameters()}
    with torch.no_grad():
        for parameter in in_full(lora).parameters():
            parameter.zero_()
    for name, parameter in lora.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_modules_that_are_trained_whole_keep_their_precision(tiny_lm):
    lm = tiny_lm(**WIDE)
    names = layers_to_quantise(lm, ["mlp", "q_proj"])
    assert names == [f"model.layers.{i}.self_attn.{n}_proj" for i in (0, 1) for n in "kvo"]
    quantise(lm, CPU, ["mlp", "q_proj"])
    assert [name for name, module in lm.named_modules() if is_quantised(module)] == names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_bytes_are_known_beforehand(tiny_lm, dtype):
    lm = tiny_lm("qwen2", dtype=dtype, **WIDE)
    expected = bytes_of(lm, dtype.itemsize)
    quantise(lm, CPU)
    states = [module.weight.quant_state for module in lm.modules() if is_quantised(module)]
    scales = [tensor for one in states for tensor in (one.absmax, one.offset, one.state2.absmax)]
    assert expected == sum(tensor.nbytes for tensor in (*lm.parameters(), *scales))


def test_rows_that_are_no_whole_blocks_keep_their_precision(tiny_lm):
    assert layers_to_quantise(tiny_lm(hidden_size=32, intermediate_size=128), []) == [
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
    ]


def test_what_cannot_be_in_four_bits_is_refused(tiny_lm, monkeypatch):
    check_four_bit(tiny_lm(**WIDE), [], CPU, 2)
    for lm, device, zero_stage, message in (
        (tiny_lm("gpt2"), CPU, 0, "GPT2LMHeadModel has no linear layers of torch with a multiple of 64 inputs"),
        (tiny_lm(**WIDE), torch.device("mps"), 0, "needs a GPU of CUDA or a CPU, and this is mps; leave it out"),
        (tiny_lm(**WIDE), CPU, 3, "use --deepspeed zero2, or leave it out"),
    ):
        with pytest.raises(InputError, match="--load_in_4bit: ") as caught:
            check_four_bit(lm, [], device, zero_stage)
        assert message in str(caught.value)
    monkeypatch.setattr("easyrlhf.models.four_bit.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed here; pip install 'easyrlhf\[quantization\]'"):
        check_four_bit(tiny_lm(**WIDE), [], CPU, 0)


def test_an_adapter_is_merged_before_its_base_is_in_four_bits(model_folder, tokenizer, tmp_path):
    """load_causal_lm merges, quantise rounds what came of it: 4 bits never hold a merged adapter that was rounded."""
    lora = shaken(
        add_lora(load_causal_lm(str(model_folder(**WIDE)), tokenizer, dtype=torch.float32), LoraSettings(**LORA))
    )
    lora.save_pretrained(tmp_path / "adapter")
    merged = load_causal_lm(str(tmp_path / "adapter"), tokenizer, dtype=torch.float32)
    expected = copy.deepcopy(merged)
    quantise(merged, CPU)
    layer = "model.layers.0.mlp.up_proj"
    gap = by_hand(merged.get_submodule(layer)) - expected.get_submodule(layer).weight
    assert gap.abs().max() < 0.2 * expected.get_submodule(layer).weight.abs().max()

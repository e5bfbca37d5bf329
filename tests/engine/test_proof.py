"""The first step must change every weight that it has a gradient for; frozen weights are found before it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from easyrlhf.engine.choice import make_engine
from easyrlhf.engine.engine import OptimiserSettings
from easyrlhf.engine.plain import PlainEngine
from easyrlhf.errors import RunError
from easyrlhf.models.lora import LoraSettings, add_lora
from easyrlhf.models.value_head import ScalarModel, new_head

SETTINGS = OptimiserSettings(
    learning_rate=0.1,
    lr_scheduler="constant",
    warmup_ratio=0.0,
    weight_decay=0.0,
    adam_eps=1e-8,
    max_grad_norm=1e9,
    total_steps=10,
)


def steps(engine: PlainEngine, number: int = 1) -> None:
    """Steps on the sum of the squares of what the model says of a few inputs."""
    inputs = torch.ones(4, 3, dtype=next(engine.model.parameters()).dtype)
    for _ in range(number):
        engine.step([(lambda: ((engine.model(inputs).float() ** 2).sum(), {}), True)], 4)


def linear(dtype=torch.float32) -> nn.Linear:
    """A matrix and a vector, none of them zero."""
    model = nn.Linear(3, 2)
    model.weight.data.fill_(0.5)
    model.bias.data.fill_(0.25)
    return model.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_that_the_optimiser_does_not_know_is_named(dtype):
    engine = PlainEngine(linear(dtype), SETTINGS)
    for group in engine.optimizer.param_groups:
        group["params"] = [p for p in group["params"] if p is not engine.masters["bias"]]
    with pytest.raises(RunError, match=r"a gradient for 1 of 2 trained tensors and left them as they were: bias\. "):
        steps(engine)


def test_a_weight_that_is_put_back_is_named(monkeypatch):
    model = linear()
    engine, step = PlainEngine(model, SETTINGS), torch.optim.AdamW.step

    def stepped(optimizer):
        before = model.weight.detach().clone()
        step(optimizer)
        model.weight.data.copy_(before)

    monkeypatch.setattr(engine.optimizer, "step", lambda: stepped(engine.optimizer))
    with pytest.raises(RunError, match="left them as they were: weight"):
        steps(engine)


def test_a_step_of_rate_0_proves_nothing_and_the_next_one_does():
    engine = PlainEngine(linear(), replace(SETTINGS, warmup_ratio=0.5))
    steps(engine)
    assert not engine.proven
    steps(engine)
    assert engine.proven


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [1e-3, 1e-6, 1e-9])
def test_steps_too_small_for_the_number_format_are_no_fault(dtype, rate):
    engine = PlainEngine(linear(dtype), replace(SETTINGS, learning_rate=rate))
    before = engine.model.weight.detach().clone()
    steps(engine)
    assert engine.proven
    assert torch.equal(engine.model.weight, before) == (rate < (1e-3 if dtype == torch.bfloat16 else 1e-8))


def test_a_weight_without_a_gradient_may_stay():
    """As the first matrix of a fresh LoRA adapter, whose second one is 0."""
    model = nn.Sequential(linear(), nn.Linear(2, 2, bias=False))
    model[1].weight.data.zero_()
    engine = PlainEngine(model, SETTINGS)
    inputs = torch.ones(4, 3)
    engine.step([(lambda: (((model(inputs) - 1) ** 2).sum(), {}), True)], 4)
    assert engine.proven
    assert torch.equal(model[0].weight, torch.full((2, 3), 0.5)) and model[1].weight.abs().min() > 0


def frozen(model: nn.Module, name: str) -> nn.Module:
    """The model with one of its weights frozen."""
    dict(model.named_parameters())[name].requires_grad_(False)
    return model


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"


@pytest.mark.parametrize("scalar", [False, True])
@pytest.mark.parametrize(("lora", "name"), [(False, "model.layers.0.mlp.up_proj.weight"), (True, A)])
def test_a_frozen_weight_that_is_to_be_trained_is_found_before_the_first_step(tiny_lm, scalar, lora, name):
    lm = tiny_lm()
    if lora:
        lm = add_lora(lm, LoraSettings(r=4, alpha=8, dropout=0.0, target="all-linear"))
    model = ScalarModel(lm, new_head(lm)) if scalar else lm
    make_engine(model, SETTINGS, None, torch.float32)  # the head of a scalar model's language model may be frozen
    with pytest.raises(RunError, match=f"1 of .* tensors that are to be trained are frozen: .*{name}"):
        make_engine(frozen(model, f"lm.{name}" if scalar else name), SETTINGS, None, torch.float32)

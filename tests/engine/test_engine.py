"""The engine's step against AdamW, clipping and schedules written out here."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch import tensor as T
from transformers import get_scheduler

from easyrlhf.config import SFTConfig
from easyrlhf.engine.engine import OptimiserSettings, weighted_sums
from easyrlhf.engine.plain import PlainEngine
from easyrlhf.errors import InputError, RunError

PLAIN = OptimiserSettings(
    learning_rate=0.1,
    lr_scheduler="constant",
    warmup_ratio=0.0,
    weight_decay=0.0,
    adam_eps=1e-8,
    max_grad_norm=1e9,
    total_steps=10,
)


def linear(dtype=torch.float32) -> nn.Linear:
    """A model of one matrix and one vector."""
    model = nn.Linear(3, 2)
    model.weight.data = T([[0.5, -0.2, 0.1], [-0.4, 0.3, 0.7]])
    model.bias.data = T([0.2, -0.1])
    return model.to(dtype)


def squares(model, seed: int = 0):
    """Twelve rows of a regression, and the summed squared error of some of them."""
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = torch.randn(12, 3, generator=generator), torch.randn(12, 2, generator=generator)

    def loss_sum(rows: list[int]) -> torch.Tensor:
        dtype = next(model.parameters()).dtype
        return ((model(inputs[rows].to(dtype)).float() - targets[rows]) ** 2).sum()

    return loss_sum


def step_of(engine: PlainEngine, micro_batches: list, loss_sum, count: float) -> dict[str, float]:
    """A step over micro-batches that all count, without metrics."""
    passes = [(micro_batch, True) for micro_batch in micro_batches]
    return engine.step([(lambda one=one: (loss_sum(one), {}), counts) for one, counts in passes], count)[0]


def test_what_micro_batches_measure_is_summed_by_weight_and_read_as_it_is():
    third = T(1 / 3)
    measured = [
        (1.0, {"loss": third, "tokens": 3, "right": T(2)}),
        (0.5, {"loss": T(0.25), "tokens": 4, "right": T(1)}),
        (0.0, {"loss": T(math.nan), "tokens": 100, "right": T(7)}),  # a row that is repeated to keep step with others
    ]
    assert weighted_sums(measured) == {"loss": third.item() + 0.125, "tokens": 5.0, "right": 2.5}
    assert weighted_sums([(1.0, {"tokens": 2})]) == {"tokens": 2.0}


class AdamWByHand:
    """Decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2) with betas .9 and .999, in float64."""

    def __init__(self, parameters: list[torch.Tensor], decays: list[float], max_norm: float, eps: float):
        self.parameters, self.decays = [p.detach().double().clone() for p in parameters], decays
        self.max_norm, self.eps, self.step_number = max_norm, eps, 0
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]

    def step(self, grads: list[torch.Tensor], lr: float) -> None:
        self.step_number += 1
        norm = math.sqrt(sum((g.double() ** 2).sum().item() for g in grads))
        factor = min(1.0, self.max_norm / norm)
        for i, grad in enumerate(grads):
            grad = grad.double() * factor
            self.first[i] = 0.9 * self.first[i] + 0.1 * grad
            self.second[i] = 0.999 * self.second[i] + 0.001 * grad**2
            mean = self.first[i] / (1 - 0.9**self.step_number)
            square = self.second[i] / (1 - 0.999**self.step_number)
            self.parameters[i] *= 1 - lr * self.decays[i]
            self.parameters[i] -= lr * mean / (square.sqrt() + self.eps)


def regression_grads(weight, bias, loss_rows: list[int], seed: int, count: int) -> list[torch.Tensor]:
    """Gradient of Σ(error²)/count by the formula: 2 eᵀx and 2 e, summed over rows.  float64"""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(12, 3, generator=generator).double(), torch.randn(12, 2, generator=generator).double()
    error = (x @ weight.T + bias - y)[loss_rows]
    return [2 * error.T @ x[loss_rows] / count, 2 * error.sum(0) / count]


@pytest.mark.parametrize("decay, max_norm", [(0.0, 1e9), (0.3, 1e9), (0.3, 0.5), (0.0, 2.0)])
def test_steps_are_adamw_by_hand_with_clipping_and_no_decay_on_vectors(decay, max_norm):
    model = linear()
    engine = PlainEngine(model, replace(PLAIN, weight_decay=decay, max_grad_norm=max_norm, adam_eps=1e-3))
    by_hand = AdamWByHand([model.weight, model.bias], [decay, 0.0], max_norm, eps=1e-3)
    for step in range(5):
        grads = regression_grads(*by_hand.parameters, list(range(12)), seed=step, count=12)
        by_hand.step(grads, lr=0.1)
        done = step_of(engine, [[0, 1, 2, 3], list(range(4, 12))], squares(model, seed=step), count=12)
        norm = math.sqrt(sum((g**2).sum().item() for g in grads))
        assert done["grad_norm"] == pytest.approx(norm, rel=1e-4)  # before clipping
        torch.testing.assert_close(model.weight.data.double(), by_hand.parameters[0], rtol=0, atol=2e-6)
        torch.testing.assert_close(model.bias.data.double(), by_hand.parameters[1], rtol=0, atol=2e-6)


@pytest.mark.parametrize("groups", [[[0], [1, 2, 3, 4, 5], [6, 7], [8, 9, 10, 11]], [[i] for i in range(12)]])
def test_uneven_micro_batches_give_the_step_of_the_whole_batch(groups):
    whole, parts = linear(), linear()
    one = step_of(PlainEngine(whole, PLAIN), [list(range(12))], squares(whole), count=12)
    many = step_of(PlainEngine(parts, PLAIN), groups, squares(parts), count=12)
    assert many["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-6)
    torch.testing.assert_close(parts.weight, whole.weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(parts.bias, whole.bias, rtol=0, atol=1e-6)


def test_the_reported_loss_is_the_mean_over_the_count():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data = T([[3.0]])
    rows = {0: [1.0], 1: [2.0, 4.0]}
    done = step_of(PlainEngine(model, PLAIN), [0, 1], lambda i: sum(model(T([x])).sum() for x in rows[i]), count=3)
    assert done["loss"] == pytest.approx(7.0)  # 3 (1 + 2 + 4) / 3
    assert done["grad_norm"] == pytest.approx(7 / 3)


def test_micro_batches_weigh_what_they_are_told():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data = T([[2.0]])
    engine = PlainEngine(model, PLAIN)

    def part(x: float):
        return model(T([x])).sum(), {"seen": T(x)}

    # a fourth of 8, half of 6, nothing of what is computed for the others' sake: w(2 + 3) / 5, with w = 2
    done, sums = engine.step([(partial(part, 8.0), 0.25), (partial(part, 6.0), 0.5), (partial(part, 99.0), 0.0)], 5)
    assert done["loss"] == pytest.approx(2.0) and done["grad_norm"] == pytest.approx(1.0)
    assert sums == {"seen": 5.0}


@pytest.mark.parametrize(
    "scheduler, expected",
    [
        ("linear", [0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("cosine", [0, 0.5, *[(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)]]),
        ("constant", [0, 0.5, *[1.0] * 8]),
    ],
)
def test_learning_rates_of_ten_steps_with_two_of_warm_up(scheduler, expected):
    model = linear()
    engine = PlainEngine(model, replace(PLAIN, learning_rate=1.0, lr_scheduler=scheduler, warmup_ratio=0.2))
    rates = [step_of(engine, [[0]], squares(model), count=1)["learning_rate"] for _ in range(10)]
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    "ours, theirs", [("linear", "linear"), ("cosine", "cosine"), ("constant", "constant_with_warmup")]
)
@pytest.mark.parametrize("warmup_ratio, total_steps", [(0.0, 7), (0.3, 10), (1.0, 4), (0.03, 1), (0.05, 300)])
def test_learning_rates_are_those_of_transformers_to_the_last_bit(ours, theirs, warmup_ratio, total_steps):
    settings = replace(PLAIN, learning_rate=3e-4, lr_scheduler=ours, warmup_ratio=warmup_ratio, total_steps=total_steps)
    scheduler = PlainEngine(linear(), settings).scheduler
    optimizer = torch.optim.AdamW(linear().parameters(), lr=3e-4)
    warmup_steps = int(warmup_ratio * total_steps)
    known = get_scheduler(theirs, optimizer, num_warmup_steps=warmup_steps, num_training_steps=total_steps)
    for _ in range(total_steps + 2):
        assert scheduler.get_last_lr()[0] == known.get_last_lr()[0]
        for one in (scheduler, known):
            one.optimizer.step()
            one.step()


def test_the_reported_learning_rate_is_the_one_used():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data = T([[1.0]])
    engine = PlainEngine(model, replace(PLAIN, lr_scheduler="linear", total_steps=4, learning_rate=0.4))
    for rate in (0.4, 0.3, 0.2, 0.1):
        before = model.weight.item()
        done = step_of(engine, [1.0], lambda x: model(T([x])).sum(), count=1)
        assert done["learning_rate"] == pytest.approx(rate)
        assert before - model.weight.item() == pytest.approx(rate, rel=1e-5)  # Adam steps by lr at constant gradient


def test_settings_are_taken_by_name_and_some_of_them_changed():
    rates = {"lr_scheduler": "cosine", "warmup_ratio": 0.1, "weight_decay": 0.2, "adam_eps": 1e-5, "max_grad_norm": 3.0}
    config = SFTConfig(train_data="rows.jsonl", learning_rate=1.0, **rates)
    expected = OptimiserSettings(7.0, "cosine", 0.1, 0.2, 1e-5, 3.0, 11)
    assert OptimiserSettings.of(config, 11, learning_rate=7.0) == expected


def test_frozen_parameters_stay_as_they_are():
    model = linear()
    model.bias.requires_grad_(False)
    step_of(PlainEngine(model, replace(PLAIN, weight_decay=0.5)), [[0, 1]], squares(model), count=2)
    torch.testing.assert_close(model.bias.data, T([0.2, -0.1]))
    assert (model.weight.data != linear().weight.data).all()


# --- low precision


def test_a_thousand_tiny_updates_of_a_bf16_weight_are_not_lost():
    """Adam at constant gradient moves by the learning rate: 1 - 1000 · 0.0001 = 0.9."""

    def thousand_steps(step, model):
        for _ in range(1000):
            step([1.0], lambda x: model(T([x], dtype=torch.bfloat16)).sum(), 1)
        return model.weight.item()

    model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    model.weight.data = T([[1.0]], dtype=torch.bfloat16)
    engine = PlainEngine(model, replace(PLAIN, learning_rate=1e-4))
    assert thousand_steps(partial(step_of, engine), model) == pytest.approx(
        0.9, abs=0.004
    )  # bf16 has steps of 1/256 there
    assert engine.masters["weight"].item() == pytest.approx(0.9, abs=1e-4)

    naive = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    naive.weight.data = T([[1.0]], dtype=torch.bfloat16)
    optimizer = torch.optim.AdamW(naive.parameters(), lr=1e-4, weight_decay=0.0)

    def naive_step(batches, loss_sum, count):
        optimizer.zero_grad()
        loss_sum(batches[0]).backward()
        optimizer.step()

    assert thousand_steps(naive_step, naive) == 1.0  # what the masters are for


def test_small_gradients_of_bf16_micro_batches_add_up_in_float32():
    model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    model.weight.data = T([[1.0]], dtype=torch.bfloat16)
    inputs = [1.0] + [2.0**-9] * 256  # in bf16, 1 + 2^-9 is 1 again
    done = step_of(PlainEngine(model, PLAIN), inputs, lambda x: model(T([x], dtype=torch.bfloat16)).sum(), count=1)
    assert done["grad_norm"] == pytest.approx(1.5)
    assert model.weight.grad is None


def test_a_bf16_model_takes_the_float32_step_rounded_once():
    exact, rounded = linear(), linear(torch.bfloat16)
    exact.load_state_dict({name: tensor.float() for name, tensor in rounded.state_dict().items()})
    grads = {"weight": torch.full((2, 3), 0.5), "bias": T([1.0, -1.0])}

    def loss_of(model):
        return lambda _: sum((p * grads[name].to(p.dtype)).sum() for name, p in model.named_parameters())

    step_of(PlainEngine(exact, PLAIN), [0], loss_of(exact), count=1)
    step_of(PlainEngine(rounded, PLAIN), [0], loss_of(rounded), count=1)
    for name, parameter in rounded.named_parameters():
        assert torch.equal(parameter, exact.get_parameter(name).bfloat16())


# --- failures


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loss_that_is_not_finite_stops_before_any_weight_changes(bad, dtype):
    model = linear(dtype)
    engine = PlainEngine(model, PLAIN)
    good = squares(model)
    step_of(engine, [[0, 1]], good, count=2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    masters = {name: p.detach().clone() for name, p in engine.masters.items()}
    with pytest.raises(RunError, match="the weights were not changed"):
        step_of(engine, [[2], [3]], lambda rows: good(rows) * (bad if rows == [3] else 1.0), count=2)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert torch.equal(engine.masters[name], masters[name])


def test_a_gradient_that_is_not_finite_stops_although_the_loss_is():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data = T([[0.0]])
    with pytest.raises(RunError, match="gradient of norm inf"):
        step_of(PlainEngine(model, PLAIN), [0], lambda _: model.weight.sqrt().sum(), count=1)  # slope 1/(2√0)
    assert model.weight.item() == 0.0


# --- saving


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_engine_goes_on_bit_for_bit(tmp_path, dtype):
    settings = replace(PLAIN, lr_scheduler="cosine", warmup_ratio=0.2, weight_decay=0.1, max_grad_norm=1.0)

    def steps(engine, numbers):
        return [step_of(engine, [[0, 1], [2]], squares(engine.model, seed), count=3) for seed in numbers]

    through = PlainEngine(linear(dtype), settings)
    steps(through, range(3))
    through.save(tmp_path / "saved")
    expected = steps(through, range(3, 6))

    model = linear(dtype)
    model.weight.data.zero_()  # what it held before does not matter
    resumed = PlainEngine(model, settings)
    resumed.load(tmp_path / "saved")
    assert steps(resumed, range(3, 6)) == expected
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, through.model.get_parameter(name))


def test_a_loaded_engine_has_the_learning_rate_of_its_own_settings(tmp_path):
    settings = replace(PLAIN, lr_scheduler="linear", warmup_ratio=0.0, learning_rate=0.4, total_steps=10)
    first = PlainEngine(linear(torch.float32), settings)
    for seed in range(5):
        step_of(first, [[0, 1]], squares(first.model, seed), count=2)
    first.save(tmp_path / "saved")
    branched = PlainEngine(linear(torch.float32), replace(settings, learning_rate=0.08))
    branched.load(tmp_path / "saved")
    rates = [step_of(branched, [[0, 1]], squares(branched.model, 5), count=2)["learning_rate"] for _ in range(2)]
    assert rates == pytest.approx([0.04, 0.032], rel=1e-12)  # 0.08 times 5 and 4 tenths


def test_a_loaded_bf16_model_has_its_weights_at_once(tmp_path):
    engine = PlainEngine(linear(torch.bfloat16), PLAIN)
    step_of(engine, [[0, 1]], squares(engine.model), count=2)
    engine.save(tmp_path / "saved")
    fresh = linear(torch.bfloat16)
    PlainEngine(fresh, PLAIN).load(tmp_path / "saved")
    assert torch.equal(fresh.weight, engine.model.weight)


def test_a_checkpoint_of_other_names_is_refused(tmp_path):
    PlainEngine(linear(), PLAIN).save(tmp_path / "saved")
    other = nn.Sequential(linear())
    with pytest.raises(InputError, match="not a checkpoint of this model"):
        PlainEngine(other, PLAIN).load(tmp_path / "saved")


@pytest.mark.parametrize("shape", [(4, 2), (3, 1)], ids=["wider", "broadcast"])
def test_a_checkpoint_of_other_shapes_is_refused_and_nothing_is_taken_from_it(tmp_path, shape):
    PlainEngine(nn.Linear(*shape), PLAIN).save(tmp_path / "saved")
    model = linear()
    with pytest.raises(InputError, match="not a checkpoint of this model"):
        PlainEngine(model, PLAIN).load(tmp_path / "saved")
    assert torch.equal(model.weight, linear().weight)

"""Linear layers with blocked weights beside torch's own, in exact arithmetic, and around them."""

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from easyrlhf.models.logprobs import row_token_logprobs
from easyrlhf.models.lora import LoraSettings, add_lora
from easyrlhf.rollout import onednn_linear
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.onednn_linear import blockable, blocked_weights
from easyrlhf.rollout.sampler import HFSampler

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
KEYS = [(0, number) for number in range(len(PROMPTS))]


def needs(*dtypes: torch.dtype) -> None:
    """Skip where torch has no such products."""
    for dtype in dtypes:
        if not onednn_linear.kernel_is_exact(dtype):
            pytest.skip(f"torch has no products with blocked weights in {dtype} on this processor")


@pytest.fixture
def small(monkeypatch):
    """Weights of any size are worth a copy."""
    monkeypatch.setattr(onednn_linear, "SMALLEST", 1)


def replaced(lm: nn.Module) -> list[nn.Module]:
    """The layers that compute otherwise than their class."""
    return [module for module in lm.modules() if "forward" in vars(module)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_products_are_those_of_exact_arithmetic_up_to_rounding(dtype, bias):
    needs(dtype)
    torch.manual_seed(0)
    layer = nn.Linear(320, 480, bias=bias, dtype=dtype)
    exact = layer.weight.double(), layer.bias.double() if bias else None
    within = torch.finfo(dtype).eps + 1e-6  # sums of 320 products are in float32
    with blocked_weights(layer):
        assert replaced(layer)
        for shape in ((1, 320), (7, 320), (32, 1, 320), (3, 65, 320)):
            rows = torch.randn(shape).to(dtype)
            found, expected = layer(rows), linear(rows.double(), *exact)
            assert found.dtype == dtype and found.shape == expected.shape
            assert (found - expected).norm() <= within * expected.norm()
        rows = torch.randn(320, 9).to(dtype).t()  # rows that do not lie one behind the other
        expected = linear(rows.double(), *exact)
        assert (layer(rows) - expected).norm() <= within * expected.norm()


@pytest.mark.parametrize("lora", [False, True])
def test_rollouts_follow_the_weights_and_leave_the_model_as_it_was(lora, small, tiny_lm, monkeypatch):
    needs(torch.float32)
    product, rows_read = onednn_linear.linear, []
    monkeypatch.setattr(
        onednn_linear, "linear", lambda rows, **how: rows_read.append(len(rows)) or product(rows, **how)
    )
    lm = tiny_lm(eos_token_id=None)
    if lora:
        lm = add_lora(lm, LoraSettings(r=2, alpha=2, dropout=0.0, target="all-linear")).eval()
    sampler = HFSampler(lm, 0, Ending((10_000,)), 8, 1.0, 3)

    def check():
        """That the model says of the samples what the sampler said."""
        samples = sampler.generate(PROMPTS, KEYS)
        for prompt, ids, found in zip(PROMPTS, samples.completion_ids, samples.logprobs, strict=True):
            row = torch.cat([torch.tensor(prompt), ids])[None]
            mask = (torch.arange(row.shape[1]) >= len(prompt))[None]
            torch.testing.assert_close(found, row_token_logprobs(lm, row, mask).detach(), rtol=0, atol=1e-5)
        assert not replaced(lm)
        return samples.completion_ids

    first = check()
    assert rows_read.count(len(PROMPTS)) > 8  # more than one layer of each step
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(check(), first)
    lm(torch.tensor([PROMPTS[0]])).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in lm.parameters() if parameter.requires_grad)


def test_a_failure_leaves_no_layer_with_a_copy():
    needs(torch.float32)
    layer = nn.Linear(256, 256)
    with pytest.raises(KeyboardInterrupt), blocked_weights(layer):
        assert replaced(layer)
        raise KeyboardInterrupt
    assert not replaced(layer)


def test_only_large_weights_of_these_types_have_copies_and_no_more_of_them_than_there_is_room_for(monkeypatch):
    class Own(nn.Linear):
        """Whoever makes a class of it computes otherwise."""

    large, least, hooked = nn.Linear(512, 512), nn.Linear(256, 256), nn.Linear(512, 512)
    hooked.forward = hooked.forward
    others = nn.Linear(256, 255), nn.Linear(512, 512, dtype=torch.float64), Own(512, 512), hooked
    lm = nn.ModuleList([large, *others, least])
    assert blockable(lm) == [large, least]
    monkeypatch.setattr(onednn_linear, "MOST", 4 * (512**2 + 256**2))
    assert blockable(lm) == [large, least]
    monkeypatch.setattr(onednn_linear, "MOST", 4 * (512**2 + 256**2) - 1)
    assert blockable(lm) == []


def test_a_model_on_another_device_computes_as_ever():
    layer = nn.Linear(256, 256, device="meta")
    with blocked_weights(layer):
        assert not replaced(layer)


@pytest.mark.parametrize("fault", ["wrong", "missing", "refused"])
def test_products_that_are_wrong_or_missing_are_not_used(fault, monkeypatch):
    def product(rows, weight, bias):
        if fault == "wrong":
            return linear(rows, weight, bias) * 1.001
        raise {"missing": AttributeError, "refused": RuntimeError}[fault]

    monkeypatch.setattr(onednn_linear, "reorder_weight", lambda weight: weight)
    monkeypatch.setattr(onednn_linear, "linear", product)
    monkeypatch.setattr(onednn_linear, "kernel_is_exact", onednn_linear.kernel_is_exact.__wrapped__)  # ask anew
    layer = nn.Linear(256, 256)
    with blocked_weights(layer):
        assert not replaced(layer)

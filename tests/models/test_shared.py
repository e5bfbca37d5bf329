"""A shared backbone gives what models of their own give, keeps its adapters apart, and can be taken apart again."""

import pytest
import torch
from torch import tensor as T

from easyrlhf.models.logprobs import row_token_logprobs
from easyrlhf.models.lora import LoraSettings, add_lora
from easyrlhf.models.shared_backbone import POLICY, VALUE, SharedBackbone, standalone
from easyrlhf.models.value_head import ScalarModel, new_head

IDS, MASK = T([[5, 6, 7, 8], [9, 10, 11, 3]]), T([[0, 1, 1, 1], [0, 0, 1, 1]])
FAMILIES = [([5], [[6, 7, 8]]), ([9, 10], [[11, 3]])]  # the same rows
LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target": "all-linear"}


def shake(model, seed: int) -> None:
    """Random numbers in every trainable parameter: a fresh adapter changes nothing."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.1 * torch.randn(p.shape, generator=noise))


@pytest.fixture
def parts(tiny_lm):
    """(backbone, policy view, value view), their adapters shaken."""
    backbone = SharedBackbone(add_lora(tiny_lm(seed=0), LoraSettings(**LORA)))
    policy = backbone.view(POLICY, trained=True)
    backbone.add_like(VALUE, POLICY)
    value = backbone.view(VALUE, trained=True)
    shake(policy.own, 1)
    shake(value.own, 2)
    return backbone, policy, value


def test_each_view_is_its_adapter_and_none_is_the_bare_model(parts, tiny_lm):
    _, policy, value = parts
    bare = row_token_logprobs(tiny_lm(seed=0), IDS, MASK)
    for view in (policy, value, policy):  # in turns
        alone = standalone(view, tiny_lm(seed=0))
        torch.testing.assert_close(row_token_logprobs(view, IDS, MASK), row_token_logprobs(alone, IDS, MASK))
        torch.testing.assert_close(view(input_ids=IDS).logits, alone(input_ids=IDS).logits)
        assert (row_token_logprobs(view, IDS, MASK) - bare).abs().max() > 0.01
        with view.disable_adapter():
            torch.testing.assert_close(row_token_logprobs(view, IDS, MASK), bare)
    assert (row_token_logprobs(policy, IDS, MASK) - row_token_logprobs(value, IDS, MASK)).abs().max() > 0.01


def test_a_view_has_its_own_parameters_alone_and_gradients_stay_apart(parts):
    backbone, policy, value = parts
    assert len(list(policy.parameters())) == len(list(value.parameters())) > 0
    assert not {id(p) for p in policy.parameters()} & {id(p) for p in value.parameters()}
    assert all(p.requires_grad for view in (policy, value) for p in view.parameters())
    scalar = ScalarModel(value, new_head(value))
    row_token_logprobs(policy, IDS, MASK).sum().backward()
    assert all(p.grad is not None for p in policy.parameters())
    assert all(p.grad is None for p in value.parameters())
    scalar.completion_values(FAMILIES, "off").sum().backward()
    assert all(p.grad is not None for p in value.parameters())
    base = [p for name, p in backbone.lora_lm.named_parameters() if "lora" not in name]
    assert base and all(p.grad is None for p in base)


def test_the_mode_of_a_view_is_the_mode_of_the_backbone(parts):
    backbone, policy, _ = parts
    policy.eval()
    assert not backbone.lora_lm.training
    policy.train()
    assert backbone.lora_lm.training and policy.training

"""What stages decide for a GPU: what they say of padding, where they prove what they saved, whose random numbers."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from easyrlhf.config import GRPOConfig, SFTConfig
from easyrlhf.models import prefix_sharing
from easyrlhf.models.prefix_sharing import enable_sharing
from easyrlhf.rollout import vllm_colocated
from easyrlhf.stages import models, samplers

GPU = torch.device("cuda", 0)


def gpu_run(capability: tuple[int, int], monkeypatch) -> SimpleNamespace:
    """A run in bf16 on such a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    return SimpleNamespace(config=SFTConfig(train_data="a", max_length=64), dtype=torch.bfloat16, device=GPU)


@pytest.mark.parametrize(
    ("family", "capability", "said"),
    [
        ("llama", (9, 0), None),
        ("llama", (7, 5), "this GPU is older than Ampere"),
        ("falcon", (9, 0), "padding is computed too: "),
    ],
)
def test_the_user_is_told_why_a_gpu_computes_padding(tiny_lm, monkeypatch, capsys, family, capability, said):
    run = gpu_run(capability, monkeypatch)
    models.attend_our_way(run, tiny_lm(family, dtype=torch.bfloat16), "outputs/sft")
    printed = " ".join(capsys.readouterr().out.split())
    assert ("warning: outputs/sft: rows do not lie" in printed) is (said is not None)
    assert said is None or said in printed


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (TypeError("forward() got an unexpected keyword argument 'layout'"), "its passes take no such rows (forward"),
        (ValueError("no such shape\nmore"), "its passes over such rows end with ValueError: no such shape"),
    ],
)
def test_a_model_that_does_not_take_shared_prompts_says_why(tiny_lm, monkeypatch, error, shown):
    monkeypatch.setattr(prefix_sharing, "states_together", raising(error))
    reasons = []
    assert not enable_sharing(tiny_lm(), 64, reasons.append)
    assert reasons[0].startswith(shown) and "\n" not in reasons[0]


@pytest.mark.parametrize(
    "error",
    [
        TypeError("varlen_attn() got an unexpected keyword argument 'enable_gqa'"),
        TypeError("unsupported operand"),
        torch.OutOfMemoryError("no room"),
        KeyError("x"),
    ],
)
def test_a_fault_of_ours_or_the_devices_is_no_unable_model(tiny_lm, monkeypatch, error):
    monkeypatch.setattr(prefix_sharing, "states_together", raising(error))
    with pytest.raises(type(error)):
        enable_sharing(tiny_lm(), 64)


def raising(error: Exception):
    """A function that raises it."""

    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize(("free", "place"), [(63, "cpu"), (64, "cuda")])
def test_a_saved_model_is_proven_on_the_cpu_where_the_gpu_has_no_room(monkeypatch, tmp_path, free, place):
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 100)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 10**9))
    monkeypatch.setattr(models, "save_lm", lambda folder, lm, *_: lm)
    monkeypatch.setattr(models, "probe_ids", lambda _: [])
    monkeypatch.setattr(models, "probe", lambda *_: [])
    proven = []
    monkeypatch.setattr(
        models, "prove_folder", lambda folder, probes, tokenizer, device, *_, **__: proven.append(device)
    )
    model = nn.Module()
    model.lm, model.head = nn.Linear(10, 5), None  # 220 bytes: with a fifth more 264, of which 200 are idle
    run = SimpleNamespace(config=SFTConfig(train_data="a"), dtype=torch.float32, device=GPU)
    models.save_scalar_model(run, tmp_path, model, SimpleNamespace(tokenizer=None))
    assert [device.type for device in proven] == [place]


def test_a_colocated_vllm_leaves_our_random_numbers_as_they_were(monkeypatch):
    class Seeding:
        """As vLLM does, which seeds our process with 0."""

        def __init__(self, *_):
            torch.manual_seed(0)
            np.random.seed(0)
            random.seed(0)

    monkeypatch.setattr(vllm_colocated, "Colocated", Seeding)
    monkeypatch.setattr(samplers, "output_rows", lambda *_: 8)
    monkeypatch.setattr(samplers, "spare_ids", lambda *_: [])
    monkeypatch.setattr(samplers.Ending, "of", lambda *_: None)
    config = GRPOConfig(train_data="a", model="m", rollout="vllm", max_prompt_length=8, max_completion_length=8)
    run = SimpleNamespace(config=config, device=GPU, dtype=torch.float32)

    def drawn() -> list:
        return [torch.rand(1).item(), np.random.rand(), random.random()]

    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(7)
    expected = drawn()
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(7)
    assert isinstance(samplers.make_backend(run, SimpleNamespace(tokenizer=None), None), Seeding)
    assert drawn() == expected

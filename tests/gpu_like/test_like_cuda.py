"""The watch itself: each kind of mistake is planted, and caught; each kind of wait is counted."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn


def on_gpu(*size: int) -> torch.Tensor:
    return torch.zeros(*size, device="cuda")


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (lambda: on_gpu(3) + torch.ones(3), "a tensor of the CPU (3,) beside tensors on cuda:0"),
        (lambda: torch.where(on_gpu(3) > 0, torch.ones(3), on_gpu(3)), "where: a tensor of the CPU"),
        (lambda: torch.cat([on_gpu(1), torch.ones(1)]), "cat: a tensor of the CPU"),
        (lambda: torch.stack([on_gpu(1)[0], torch.tensor(1.0)]), "stack: a number of the CPU"),
        (lambda: F.embedding(torch.tensor([1]), on_gpu(4, 2)), "embedding: a tensor of the CPU"),
        (lambda: nn.Linear(3, 2)(on_gpu(1, 3)), "linear: a tensor of the CPU"),
        (lambda: on_gpu(3).numpy(), "numpy of a tensor on cuda:0"),
        (lambda: np.asarray(on_gpu(3)), "numpy of a tensor on cuda:0"),
        (lambda: torch.ones(3)[on_gpu(2).long()], "a tensor of the CPU, and an index or values on cuda:0"),
        (lambda: torch.ones(3).__setitem__(0, on_gpu(1)[0]), "a tensor of the CPU, and an index or values on cuda:0"),
        (
            lambda: on_gpu(3).__setitem__(torch.tensor([0, 1]), torch.ones(2)),
            "values of the CPU for a tensor on cuda:0",
        ),
        (lambda: torch.rand(2, device="cuda", generator=torch.Generator()), "a generator of the CPU"),
        (lambda: torch.multinomial(on_gpu(3) + 1, 1, generator=torch.Generator()), "a generator of the CPU"),
    ],
)
def test_a_planted_mistake_is_refused(watch, like, mistake, said):
    with watch, pytest.raises(like.RefusedError) as refused:
        mistake()
    assert said in str(refused.value)


def rows(like, **changed):
    """Arguments of the kernel for rows of various lengths: four tokens in rows of 1 and 3, two heads of eight."""
    heads, ends = torch.zeros(4, 2, 8, dtype=torch.bfloat16, device="cuda"), on_gpu(3).int()
    ends[1], ends[2] = 1, 4
    given = {"query": heads, "key": heads, "value": heads, "cu_q": ends, "cu_k": ends, "max_q": 3, "max_k": 3}
    return given | {"window_size": (-1, 0)} | changed


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda: {"cu_q": torch.tensor([0, 1, 4], dtype=torch.int32)}, "a tensor of the CPU"),
        (lambda: {"cu_k": on_gpu(3).long()}, "ends are int32"),
        (lambda: {"query": on_gpu(4, 2, 8)}, "torch.float32, heads of 8"),
        (lambda: {"window_size": (-1, -1)}, "not causal"),
        (lambda: {"key": torch.zeros(4, 1, 8, dtype=torch.bfloat16, device="cuda")}, "without enable_gqa"),
    ],
)
def test_the_kernel_refuses_what_torchs_does(watch, like, changed, said):
    with watch:
        assert like.varlen(**rows(like)).shape == (4, 2, 8)
        with pytest.raises(like.RefusedError, match=said):
            like.varlen(**rows(like, **changed()))


@pytest.mark.parametrize(
    ("line", "waits", "sent"),
    [
        (lambda: on_gpu(3).sum().item(), 1, 0),
        (lambda: on_gpu(3).tolist(), 1, 0),
        (lambda: bool(on_gpu(3).any()), 1, 0),
        (lambda: on_gpu(3).cpu(), 1, 0),
        (lambda: on_gpu(3).to("cpu"), 1, 0),
        (lambda: torch.ones(3).to("cuda"), 1, 0),
        (lambda: torch.ones(3).to("cuda", non_blocking=True), 0, 1),
        (lambda: torch.tensor([1, 2], device="cuda"), 1, 0),
        (lambda: on_gpu(3)[on_gpu(3) > 0], 1, 0),
        (lambda: on_gpu(3).nonzero(), 1, 0),
        (lambda: on_gpu(3).repeat_interleave(on_gpu(3).long()), 1, 0),
        (lambda: on_gpu(3).repeat_interleave(on_gpu(3).long(), output_size=0), 0, 0),
        (lambda: torch.ones(3).copy_(on_gpu(3)), 1, 0),
        (lambda: (on_gpu(3) * 2 + 1).sum().detach().float(), 0, 0),
        (lambda: on_gpu(3)[on_gpu(2).long()], 0, 0),
    ],
)
def test_each_wait_is_counted(watch, like, line, waits, sent):
    with watch:
        line()
    assert (watch.waits, sum(n for (what, _), n in watch.counts.items() if what == like.SENT)) == (waits, sent)


def test_what_is_computed_is_what_the_cpu_computes(watch, tiny_lm):
    lm, ids = tiny_lm(), torch.arange(5, 11)[None]
    expected = lm(input_ids=ids, use_cache=False).logits
    with watch:
        lm.to("cuda")
        found = lm(input_ids=ids.to("cuda"), use_cache=False).logits
        assert found.is_cuda and str(found.device) == "cuda:0"
        found.sum().backward()
        assert all(weight.grad.is_cuda for weight in lm.parameters())
        assert torch.equal(found.cpu(), expected)

"""The alignment losses against TRL's own trainers: same log-probabilities, same losses and gradients."""

from collections import defaultdict
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from easyrlhf.losses.kto import kto_kl, kto_loss
from easyrlhf.losses.pairwise import DPO_LOSSES, aot_loss, aot_matches, cpo_loss, ipo_loss, odds_ratio_loss, simpo_loss
from easyrlhf.losses.soft_labels import soft_label_loss

trl = pytest.importorskip("trl", reason="the oracle is TRL")
N, S = 8, 9  # pairs, tokens with the prompt


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def accelerator() -> SimpleNamespace:
    return SimpleNamespace(device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x)


def completion_mask(rows: int) -> torch.Tensor:
    """Prompts of 1 to 3 tokens, then completions of 1 to 6, then padding.  [rows, S]"""
    starts = torch.randint(1, 4, (rows, 1))
    ends = starts + torch.randint(1, 7, (rows, 1))
    return ((torch.arange(S) >= starts) & (torch.arange(S) < ends)).long()


def output_of(logprobs: torch.Tensor) -> SimpleNamespace:
    """What TRL's patched models return, with given log-probabilities."""
    nothing = torch.zeros_like(logprobs)
    return SimpleNamespace(log_probs=logprobs, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, leaf: torch.Tensor) -> None:
    """Equal losses, and equal gradients that say something."""
    (mine,) = torch.autograd.grad(ours, leaf, retain_graph=True)
    (other,) = torch.autograd.grad(theirs, leaf)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0, check_dtype=False)
    torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-9)
    assert other.abs().max() > 1e-4


def trl_dpo(loss_type: str, logprobs, ref_logprobs, mask, beta: float, label_smoothing: float) -> torch.Tensor:
    """DPOTrainer._compute_loss of a batch of chosen, then rejected completions."""
    trainer = SimpleNamespace(
        accelerator=accelerator(),
        model=SimpleNamespace(training=False),
        args=trl.DPOConfig,  # for its default discopop_tau
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=beta,
        label_smoothing=label_smoothing,
        use_weighting=False,
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
    )
    ref_chosen, ref_rejected = ref_logprobs.sum(1).chunk(2)
    inputs = {
        "input_ids": mask,
        "completion_mask": mask,
        "ref_chosen_logps": ref_chosen,
        "ref_rejected_logps": ref_rejected,
    }
    return trl.DPOTrainer._compute_loss(trainer, lambda **_: output_of(logprobs), inputs, False)


@pytest.fixture
def pairs():
    """(leaf, log-probabilities, those of the reference, mask): [2N, S − 1] of chosen, then rejected."""
    mask = completion_mask(2 * N)
    leaf = (torch.randn(2 * N, S - 1, dtype=torch.float64) - 2).requires_grad_()
    reference = (leaf.detach() + torch.randn(2 * N, S - 1, dtype=torch.float64)) * mask[:, 1:]
    return leaf, leaf * mask[:, 1:], reference, mask


# TRL's sigmoid ignores label_smoothing: it is ours at 0
@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize("loss_type", DPO_LOSSES)
def test_the_dpo_losses_are_trls(pairs, loss_type, beta):
    leaf, logprobs, reference, mask = pairs
    chosen, rejected = (logprobs - reference).sum(1).chunk(2)
    smoothing = 0.0 if loss_type == "sigmoid" else 0.15
    ours = DPO_LOSSES[loss_type](chosen, rejected, beta, smoothing).mean()
    assert_same(ours, trl_dpo(loss_type, logprobs, reference, mask, beta, 0.15), leaf)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.15])
def test_aot_row_by_row_is_trls_sort_of_the_batch(pairs, label_smoothing):
    leaf, logprobs, reference, mask = pairs
    margins, ref_margins = (x[:N] - x[N:] for x in (logprobs.sum(1), reference.sum(1)))
    matched = aot_matches(margins.detach(), ref_margins)
    rows = [aot_loss(margins[i : i + 1], matched[i : i + 1], 0.3, label_smoothing) for i in range(N)]
    assert_same(torch.cat(rows).mean(), trl_dpo("aot", logprobs, reference, mask, 0.3, label_smoothing), leaf)
    assert not torch.equal(matched, ref_margins)


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_ipo_of_means_is_trls(pairs, beta):
    leaf, logprobs, reference, mask = pairs
    chosen, rejected = ((logprobs - reference).sum(1) / mask.sum(1)).chunk(2)
    assert_same(ipo_loss(chosen, rejected, beta).mean(), trl_dpo("ipo", logprobs, reference, mask, beta, 0.0), leaf)


@pytest.mark.parametrize("shift", [+1.0, -1.0])  # of the mismatched log-ratios: a KL above 0, and one that is clamped
@pytest.mark.parametrize("labels", ["both", "desirable", "undesirable"])
def test_kto_is_trls(shift, labels):
    mask = completion_mask(N)
    leaf = (torch.randn(N, S - 1, dtype=torch.float64) - 2).requires_grad_()
    logprobs = leaf * mask[:, 1:]
    reference = (leaf.detach() + torch.randn(N, S - 1, dtype=torch.float64)).mul(mask[:, 1:]).sum(1)
    label = {"both": torch.arange(N) % 3 == 0, "desirable": torch.ones(N).bool(), "undesirable": torch.zeros(N).bool()}
    label = label[labels]
    mismatched, ref_mismatched = 0.7 * torch.randn(2, N, dtype=torch.float64)
    mismatched = mismatched + shift
    trainer = SimpleNamespace(
        accelerator=accelerator(),
        model=SimpleNamespace(training=False),
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        calculate_KL=True,
        loss_type="kto",
        beta=0.2,
        desirable_weight=1.3,
        undesirable_weight=0.7,
        _compute_kl_logps=lambda model, batch: mismatched,
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
    )
    inputs = {"input_ids": mask, "completion_mask": mask, "label": label}
    inputs |= {"ref_logps": reference, "ref_KL_logps": ref_mismatched}
    theirs = trl.KTOTrainer._compute_loss(trainer, lambda **_: output_of(logprobs), inputs, False)
    kl = kto_kl(mismatched - ref_mismatched)
    assert (kl > 0) == (shift > 0)
    assert_same(kto_loss(logprobs.sum(1) - reference, label, kl, 0.2, 1.3, 0.7).mean(), theirs, leaf)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.15])
def test_cpo_and_simpo_are_trls(label_smoothing):
    trainer_class = pytest.importorskip("trl.experimental.cpo").CPOTrainer
    settings = {"accelerator": accelerator(), "alpha": 0.0, "beta": 0.4, "label_smoothing": label_smoothing}
    leaf = (torch.randn(2, N, dtype=torch.float64) - 2).requires_grad_()

    trainer = SimpleNamespace(loss_type="sigmoid", **settings)
    theirs = trainer_class.cpo_loss(trainer, *leaf)[0]
    assert_same(cpo_loss(*leaf, 0.4, label_smoothing).mean(), theirs.mean(), leaf)

    trainer = SimpleNamespace(loss_type="simpo", simpo_gamma=1.3, **settings)
    theirs = trainer_class.cpo_loss(trainer, *leaf)[0]
    assert_same(simpo_loss(*leaf, 0.4, 1.3, label_smoothing).mean(), theirs.mean(), leaf)


def test_soft_labels_of_one_probability_are_trls_conservative_losses():
    """cDPO's label_smoothing is 1 − p. TRL's `sigmoid` has none, so it is read off its CPO without SFT loss."""
    trainer_class = pytest.importorskip("trl.experimental.cpo").CPOTrainer
    settings = {"accelerator": accelerator(), "alpha": 0.0, "beta": 0.4, "label_smoothing": 0.2}
    leaf = (torch.randn(2, N, dtype=torch.float64) - 2).requires_grad_()
    p = torch.full((N,), 0.8, dtype=torch.float64)

    plain = {"beta": 0.4, "label_smoothing": 0.0}
    for name, ours in (
        ("sigmoid", partial(DPO_LOSSES["sigmoid"], **plain)),
        ("sigmoid", partial(cpo_loss, **plain)),
        ("simpo", partial(simpo_loss, gamma=0.0, **plain)),
    ):
        theirs = trainer_class.cpo_loss(SimpleNamespace(loss_type=name, simpo_gamma=0.0, **settings), *leaf)[0]
        assert_same(soft_label_loss(ours, *leaf, p).mean(), theirs.mean(), leaf)


def test_the_odds_ratio_loss_is_trls():
    """TRL computes in float32 and gives beta · log σ, to be subtracted."""
    trainer_class = pytest.importorskip("trl.experimental.orpo").ORPOTrainer
    leaf = (-torch.rand(2, 64) * torch.logspace(-3, 1, 64)).requires_grad_()
    trainer = SimpleNamespace(accelerator=accelerator(), beta=0.3)
    theirs = -trainer_class.odds_ratio_loss(trainer, *leaf)[0]
    ours = 0.3 * odds_ratio_loss(*leaf)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)  # row by row: float32's own rounding
    assert_same(ours.mean(), theirs.mean(), leaf)

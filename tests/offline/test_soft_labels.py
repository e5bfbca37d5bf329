"""Soft labels in the reward model and in every method on pairs: gradients, SFT terms, and what is measured."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from easyrlhf.config import CPOConfig, DPOConfig, IPOConfig, ORPOConfig, RMConfig, SimPOConfig
from easyrlhf.models.value_head import ScalarModel, new_head
from easyrlhf.offline.pair_metrics import concluded
from easyrlhf.stages import preference, rm
from easyrlhf.stages.preference import cpo_losses, dpo_losses, ipo_losses, orpo_losses, simpo_losses

ROWS = [  # prompt, chosen, rejected; log-probabilities of the two under a made-up reference
    ([5, 6, 7], [8, 9, 2], [10, 2], -14.0, -11.0),
    ([11], [12, 13, 14, 15, 2], [16, 17, 2], -25.0, -20.0),
    ([18, 19, 20, 21], [22, 2], [23, 24, 25, 26, 2], -9.0, -31.0),
]
NAMES = ("prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen", "ref_rejected")
NO_FORM = "aot"
LOSS_TYPES = [name for name in DPOConfig.__dataclass_fields__["loss_type"].metadata["choices"] if name != NO_FORM]
METHODS = {
    "rm": (RMConfig, None, {"center_rewards_coefficient": 0.1}),
    **{f"dpo {name}": (DPOConfig, dpo_losses, {"beta": 0.3, "loss_type": name}) for name in LOSS_TYPES},
    "dpo exo_pair": (DPOConfig, dpo_losses, {"beta": 0.3, "loss_type": "exo_pair", "label_smoothing": 0.1}),
    "dpo smoothed": (DPOConfig, dpo_losses, {"beta": 0.3, "label_smoothing": 0.1}),
    "ipo": (IPOConfig, ipo_losses, {"beta": 0.3}),
    "simpo": (SimPOConfig, simpo_losses, {"beta": 1.5, "simpo_gamma": 0.5}),
    "cpo": (CPOConfig, cpo_losses, {"beta": 0.3, "cpo_alpha": 0.0, "label_smoothing": 0.1}),
}
WITH_SFT = {
    "orpo": (ORPOConfig, orpo_losses, {"beta": 0.3}),
    "cpo, sft": (CPOConfig, cpo_losses, {"beta": 0.3, "cpo_alpha": 0.7}),
    "simpo, sft": (SimPOConfig, simpo_losses, {"beta": 1.5, "cpo_alpha": 0.7}),
    "dpo, sft": (DPOConfig, dpo_losses, {"beta": 0.3, "rpo_alpha": 0.7}),
}


def pair(number: int, **other) -> dict:
    row = dict(zip(NAMES, ROWS[number], strict=True))
    return row | {"weight": 1.0, "margin": 0.0, "length": len(row["prompt_ids"]) + 5} | other


def turned(row: dict, **other) -> dict:
    """A comparison the other way round."""
    sides = ("chosen_ids", "rejected_ids"), ("ref_chosen", "ref_rejected")
    return row | {a: row[b] for one in sides for a, b in (one, one[::-1])} | other


@pytest.fixture
def gradients_of(tiny_lm):
    """gradients_of(rows, config class, losses, settings) -> (loss, parameter → gradient, metrics as logged)."""

    def of(rows, config_class, losses, settings):
        lm = tiny_lm(seed=0)
        config = config_class(train_data="x", model="m", **settings)
        run = SimpleNamespace(config=config, device=torch.device("cpu"), micro_batch_tokens=10_000)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = lm if losses else ScalarModel(lm, new_head(lm))
        task = (partial(preference.pair_task, losses=losses) if losses else rm.rm_task)(model, run)
        rows = task.prepare(rows)
        total, sums = task.loss(rows)
        count = sum(map(task.units, rows))
        (total / count).backward()
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return (total / count).item(), found, task.conclude({name: float(x) / count for name, x in sums.items()})

    return of


@pytest.mark.parametrize("method", [*METHODS, *WITH_SFT])
def test_rows_without_the_key_are_learned_bit_for_bit_as_before(gradients_of, monkeypatch, method):
    how = (METHODS | WITH_SFT)[method]
    rows = [pair(0, margin=0.5), pair(1, weight=0.25), pair(2)]
    plain, gradients, metrics = gradients_of(rows, *how)
    sure = gradients_of([row | {"chosen_probability": 1.0} for row in rows], *how)
    for module in (preference, rm):
        monkeypatch.setattr(module, "soft_label_loss", lambda loss, a, b, p, *columns: loss(a, b, *columns))
    before = gradients_of(rows, *how)
    for other in (sure, before):
        assert (other[0], other[2]) == (plain, metrics)
        assert all(torch.equal(other[1][name], gradient) for name, gradient in gradients.items())
    assert not {"cross_entropy", "label_entropy", "ties"} & metrics.keys()


@pytest.mark.parametrize("method", METHODS)
def test_three_votes_are_three_rows_of_a_third(gradients_of, method):
    soft = gradients_of([pair(0, chosen_probability=2 / 3), pair(1)], *METHODS[method])
    votes = [pair(0, weight=1 / 3), pair(0, weight=1 / 3), turned(pair(0), weight=1 / 3), pair(1)]
    loss, gradients, _ = gradients_of(votes, *METHODS[method])
    assert soft[0] == pytest.approx(loss, rel=1e-6, abs=1e-6)
    for name, gradient in gradients.items():
        scale = max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(soft[1][name], gradient, rtol=0, atol=1e-6 * scale)


@pytest.mark.parametrize("method", WITH_SFT)
def test_sft_terms_weigh_by_how_much_surer_one_answer_is(gradients_of, method):
    config_class, losses, settings = WITH_SFT[method]
    off = {name: 0.0 for name in ("cpo_alpha", "rpo_alpha") if name in settings}

    def sft_of(*probabilities: float) -> float:
        """The loss beyond that of the preferences, in nats a token of a chosen answer."""
        rows = [pair(i, chosen_probability=p) for i, p in enumerate(probabilities)]
        whole = gradients_of(rows, config_class, losses, settings)[0]
        if not off:  # orpo's stands with a weight of 1
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(config_class, "sft_weight", 0.0)
                return whole - gradients_of(rows, config_class, losses, settings)[0]
        return (whole - gradients_of(rows, config_class, losses, settings | off)[0]) / 0.7

    first, second = (len(ROWS[i][1]) for i in (0, 1))
    alone = sft_of(1.0) * first, sft_of(1.0, 1.0) * (first + second)
    assert sft_of(0.5) == pytest.approx(0, abs=1e-5)
    assert sft_of(0.75) * first == pytest.approx(0.5 * alone[0], rel=1e-4)  # 2 · ¾ − 1
    # the other row as a whole, over the tokens of both
    assert sft_of(0.5, 1.0) * (first + second) == pytest.approx(alone[1] - alone[0], rel=1e-4)


@pytest.mark.parametrize("method", ["rm", "dpo sigmoid"])
def test_what_is_measured_of_soft_labels(gradients_of, method):
    rows = [pair(0, chosen_probability=0.75), turned(pair(0), chosen_probability=1.0), pair(1, chosen_probability=0.5)]
    _, _, found = gradients_of(rows, *METHODS[method])
    alone = [gradients_of([pair(i)], *METHODS[method])[2]["rewards/margins"] for i in (0, 1)]
    first, second = (math.log1p(math.exp(-margin)) for margin in alone)  # −ln σ
    assert found["rewards/accuracies"] == pytest.approx(0.5)  # of the same pair once each way; the tie does not count
    # ¾ · −ln σ(m) + ¼ · −ln σ(−m); −ln σ(−m); and both halves of the tie, −ln σ(−m) being −ln σ(m) + m
    costs = 0.75 * first + 0.25 * (first + alone[0]), first + alone[0], 0.5 * second + 0.5 * (second + alone[1])
    assert found["cross_entropy"] == pytest.approx(sum(costs) / 3, rel=1e-5)
    assert found["label_entropy"] == pytest.approx((0.5623351 + 0 + 0.6931472) / 3, rel=1e-6)


def test_a_batch_of_ties_has_no_accuracy_and_sure_labels_no_entropy():
    means = {"rewards/accuracies": 0.0, "cross_entropy": 0.7, "label_entropy": 0.69, "ties": 1.0}
    assert concluded(means) == {"cross_entropy": 0.7, "label_entropy": 0.69}
    means = {"rewards/accuracies": 0.6, "cross_entropy": 0.7, "label_entropy": 0.1, "ties": 0.25}
    assert concluded(means)["rewards/accuracies"] == pytest.approx(0.8)
    assert concluded(means | {"label_entropy": 0.0, "ties": 0.0}) == {"rewards/accuracies": 0.6}

"""Losses of the offline alignment methods against values worked out by hand."""

import math

import pytest
import torch

from easyrlhf.config import DPOConfig
from easyrlhf.losses.kto import kto_kl, kto_loss
from easyrlhf.losses.pairwise import (
    DISCOPOP_TAU,
    DPO_LOSSES,
    aot_loss,
    aot_matches,
    cpo_loss,
    ipo_loss,
    odds_ratio_loss,
    rrhf_loss,
    simpo_loss,
)

LN2, LN3 = math.log(2), math.log(3)
# at ±10 and β 0.1, where σ(1) = 0.73106, σ(−1) = 0.26894, −ln σ(1) = 0.31326, −ln σ(−1) = 1.31326
S, NLL = 0.7310586, 0.3132617


def T(*values, grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def value(loss: torch.Tensor) -> float:
    return loss.item()


def gradients(loss, *values: float, **settings) -> tuple[float, ...]:
    """Derivatives of a loss of single rows with respect to its tensors."""
    leaves = [T(x, grad=True) for x in values]
    return tuple(grad.item() for grad in torch.autograd.grad(loss(*leaves, **settings).sum(), leaves))


# --- DPO and its kin


@pytest.mark.parametrize(
    "name, chosen, rejected, smoothing, expected",
    [
        ("sigmoid", 0, 0, 0.0, LN2),
        ("sigmoid", 10, 0, 0.0, NLL),
        ("sigmoid", 0, 10, 0.0, NLL + 1),  # −ln σ(−1) = 1 − ln σ(1)
        ("sigmoid", 10, 0, 0.1, NLL + 0.1),  # 0.9 · NLL + 0.1 · (NLL + 1)
        ("hinge", 4, 0, 0.0, 0.6),  # 1 − 0.1 · 4
        ("hinge", 0, 4, 0.0, 1.4),
        ("hinge", 30, 0, 0.0, 0.0),
        ("robust", 10, 0, 0.0, NLL),
        ("robust", 10, 0, 0.1, NLL - 0.125),  # (0.9 · NLL − 0.1 · (NLL + 1)) / 0.8
        ("robust", 0, 10, 0.1, NLL + 1.125),  # (0.9 · (NLL + 1) − 0.1 · NLL) / 0.8
        ("exo_pair", 0, 0, 0.5, 0.0),  # both choose evenly
        ("exo_pair", 0, 0, 0.1, math.log(5 / 3)),  # ½ ln(½ / 0.9) + ½ ln(½ / 0.1) = ½ ln(0.25 / 0.09)
        ("exo_pair", 10 * LN3, 0, 0.25, 0.0),  # the policy chooses ¾ : ¼, as the labels
        ("nca_pair", 0, 0, 0.0, 2 * LN2),
        ("nca_pair", 10, -10, 0.0, NLL + 0.5 * (NLL + 1) + 0.5 * NLL),
        ("nca_pair", -10, 10, 0.0, NLL + 1 + 0.5 * NLL + 0.5 * (NLL + 1)),
        ("bco_pair", 0, 0, 0.0, 2 * LN2),
        ("bco_pair", 10, -10, 0.0, 2 * NLL),
        ("bco_pair", 10, 10, 0.0, 2 * NLL + 1),
        ("sppo_hard", 5, -5, 0.0, 0.0),  # 1 / (2β) = 5
        ("sppo_hard", 0, 0, 0.0, 50.0),
        ("sppo_hard", 7, 1, 0.0, 4 + 36),
        ("apo_zero", 0, 0, 0.0, 1.0),
        ("apo_zero", 10, 0, 0.0, 1 - S + 0.5),
        ("apo_zero", 0, 10, 0.0, 0.5 + S),
        ("apo_down", 0, 0, 0.0, 1.0),
        ("apo_down", 10, 10, 0.0, S + 0.5),
        ("apo_down", 0, -10, 0.0, 0.5 + 1 - S),
        ("discopop", 0, 0, 0.0, (LN2 + 1) / 2),  # the gate is at ½
        ("discopop", 10, 0, 0.0, math.exp(-1)),  # σ(20) = 1 leaves the exponential
        ("discopop", 0, 10, 0.0, NLL + 1),  # σ(−20) = 0 leaves the logistic
        ("discopop", 0.5 * LN3, 0, 0.0, 0.25 * math.log1p(math.exp(-0.05 * LN3)) + 0.75 * math.exp(-0.05 * LN3)),
    ],
)
def test_dpo_losses_by_hand(name, chosen, rejected, smoothing, expected):
    loss = DPO_LOSSES[name](T(chosen), T(rejected), 0.1, smoothing)
    assert value(loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "name, chosen, rejected, smoothing, expected",
    [
        ("sigmoid", 0, 0, 0.0, (-0.05, 0.05)),  # −β σ(0)
        ("sigmoid", 10, 0, 0.0, (-0.1 * (1 - S), 0.1 * (1 - S))),
        ("sigmoid", 10, 0, 0.5, (0.1 * (S - 0.5), 0.1 * (0.5 - S))),  # σ(x) − ½: pulled back to no preference
        ("hinge", 4, 0, 0.0, (-0.1, 0.1)),
        ("hinge", 30, 0, 0.0, (0.0, 0.0)),
        ("robust", 0, 0, 0.1, (-0.0625, 0.0625)),  # −β (½ · 0.9 + ½ · 0.1) / 0.8
        ("nca_pair", 0, 0, 0.0, (-0.025, 0.025)),  # −½β + ¼β and ¼β
        ("bco_pair", 0, 0, 0.0, (-0.05, 0.05)),
        ("sppo_hard", 0, 0, 0.0, (-10.0, 10.0)),  # 2 (0 ∓ 5)
        ("apo_zero", 0, 0, 0.0, (-0.025, 0.025)),  # β σ'(0) = 0.1 / 4
        ("apo_down", 0, 0, 0.0, (0.0, 0.025)),  # chosen: +β/4 − β/4
        ("discopop", 10, 0, 0.0, (-0.1 * math.exp(-1), 0.1 * math.exp(-1))),
    ],
)
def test_gradients_of_dpo_losses_by_hand(name, chosen, rejected, smoothing, expected):
    found = gradients(lambda *x: DPO_LOSSES[name](*x, 0.1, smoothing), chosen, rejected)
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", DPO_LOSSES)
@pytest.mark.parametrize("chosen, rejected", [(0.0, 1e5), (1e5, 0.0), (-1e5, -1e5), (1e4, -1e4)])
def test_extreme_log_ratios_give_finite_losses_and_gradients(name, chosen, rejected):
    loss = DPO_LOSSES[name](T(chosen), T(rejected), 0.1, 0.1)
    grads = gradients(lambda *x: DPO_LOSSES[name](*x, 0.1, 0.1), chosen, rejected)
    assert all(map(math.isfinite, (value(loss), *grads)))


def test_the_names_that_use_label_smoothing_are_those_that_change_with_it():
    def changes(name):
        return value(DPO_LOSSES[name](T(7), T(3), 0.1, 0.1)) != value(DPO_LOSSES[name](T(7), T(3), 0.1, 0.2))

    assert {*filter(changes, DPO_LOSSES)} | {"aot"} == {*DPOConfig.smoothed}
    assert value(aot_loss(T(7), T(3), 0.1, 0.1)) != value(aot_loss(T(7), T(3), 0.1, 0.2))


@pytest.mark.parametrize("name", DPO_LOSSES)
def test_every_row_has_its_own_loss(name):
    chosen, rejected = T(1, -2, 3), T(0, 2, -5)
    rows = DPO_LOSSES[name](chosen, rejected, 0.3, 0.2)
    each = [DPO_LOSSES[name](chosen[i : i + 1], rejected[i : i + 1], 0.3, 0.2) for i in range(3)]
    torch.testing.assert_close(rows, torch.cat(each))
    assert rows.shape == (3,)


def test_the_temperature_of_discopop_is_the_papers():
    assert DISCOPOP_TAU == 0.05


# --- AOT


def test_aot_by_hand():
    # β (20 − 10) = 1
    assert value(aot_loss(T(20), T(10), 0.1, 0.0)) == pytest.approx(NLL)
    assert value(aot_loss(T(10), T(20), 0.1, 0.0)) == pytest.approx(NLL + 1)
    assert value(aot_loss(T(20), T(10), 0.1, 0.25)) == pytest.approx(NLL + 0.25)


def test_every_row_is_matched_with_the_reference_of_its_rank():
    # ranks of 5, −1, 3, 4 are 3, 0, 1, 2; the reference in order is 0, 7, 8, 9
    assert aot_matches(T(5, -1, 3, 4), T(8, 0, 9, 7)).tolist() == [9, 0, 7, 8]
    assert aot_matches(T(1), T(2)).tolist() == [2]


def test_equal_rows_use_every_reference_once():
    assert sorted(aot_matches(T(1, 1, 0, 1), T(4, 3, 2, 1)).tolist()) == [1, 2, 3, 4]


# --- the other methods


def test_ipo_by_hand():
    # 1 / (2β) = 5
    losses = ipo_loss(T(10, 5, 0, 0), T(0, 0, 0, 2), 0.1)
    assert losses.tolist() == pytest.approx([25, 0, 25, 49])
    assert gradients(ipo_loss, 10, 0, beta=0.1) == pytest.approx((10, -10))  # 2 (10 − 5)


@pytest.mark.parametrize(
    "logratio, desirable, kl, expected",
    [
        (10, True, 0, 1 - S),
        (10, False, 0, S),
        (-10, True, 0, S),
        (-10, False, 0, 1 - S),
        (10, True, 10, 0.5),
        (0, True, 10, S),
        (0, False, 10, 1 - S),
    ],
)
def test_kto_by_hand(logratio, desirable, kl, expected):
    loss = kto_loss(T(logratio), torch.tensor([desirable]), T(kl)[0], 0.1, 1.0, 1.0)
    assert value(loss) == pytest.approx(expected, abs=1e-6)


def test_kto_weighs_each_label_with_its_own_weight():
    losses = kto_loss(T(0, 0, 0), torch.tensor([True, False, True]), T(0)[0], 0.1, 1.2, 3.0)
    assert losses.tolist() == pytest.approx([0.6, 1.5, 0.6])


def test_kto_pushes_up_what_is_desirable_and_down_what_is_not():
    def loss(logratio, desirable):
        return kto_loss(logratio, torch.tensor([desirable]), T(0)[0], 0.1, 1.2, 3.0)

    # weight · β σ'(0)
    assert gradients(lambda x: loss(x, True), 0) == pytest.approx((-1.2 * 0.025,))
    assert gradients(lambda x: loss(x, False), 0) == pytest.approx((3.0 * 0.025,))


def test_ktos_kl_is_a_mean_that_is_not_negative_and_has_no_gradient():
    assert value(kto_kl(T(4, -1, 3))) == 2
    assert value(kto_kl(T(-4, 1))) == 0
    assert not kto_kl(T(4, grad=True)).requires_grad


def test_the_odds_ratio_by_hand():
    # odds of ½ are 1, of ¼ ⅓: −ln σ(ln 3) = ln 4/3; the wrong way round −ln σ(−ln 3) = ln 4
    chosen, rejected = math.log(0.5), math.log(0.25)
    assert odds_ratio_loss(T(chosen, rejected, -1), T(rejected, chosen, -1)).tolist() == pytest.approx(
        [math.log(4 / 3), math.log(4), LN2]
    )
    # d log odds / d log p = 1 / (1 − p): 2 and 4/3, times −σ(−ln 3) = −¼
    assert gradients(odds_ratio_loss, chosen, rejected) == pytest.approx((-0.5, 1 / 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logprob", [0.0, -1e-9, -1e-7, -1e-4, -0.7, -17.0, -200.0, -1e4])
def test_the_odds_ratio_of_certain_and_of_hopeless_completions_is_finite(dtype, logprob):
    chosen = torch.tensor([logprob, -1.0], dtype=dtype, requires_grad=True)
    loss = odds_ratio_loss(chosen, chosen.detach().flip(0))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert chosen.grad.isfinite().all()


def test_log_odds_are_exact_near_certainty_and_far_from_it():
    # p = 1 − 1e-6: odds 999 999; p = e^−30: odds e^−30. Against odds 1 the loss is ln(1 + 1 / odds).
    even = torch.full((2,), 0.5).log()
    losses = odds_ratio_loss(torch.tensor([math.log1p(-1e-6), -30.0]), even)
    torch.testing.assert_close(losses, torch.tensor([math.log1p(1 / 999_999), 30.0]), rtol=1e-5, atol=0)


def test_simpo_by_hand():
    # 2 · 0.5 − 0.5 = 0.5: −ln σ(½) = 0.47408; a margin of γ / β costs ln 2
    assert value(simpo_loss(T(-0.5), T(-1.0), 2.0, 0.5)) == pytest.approx(0.474077)
    assert value(simpo_loss(T(-0.5), T(-1.0), 2.0, 1.0)) == pytest.approx(LN2)
    assert gradients(simpo_loss, -0.5, -1.0, beta=2.0, gamma=1.0) == pytest.approx((-1.0, 1.0))  # −β σ(0)
    # smoothed: 0.9 · 0.474077 + 0.1 · (0.474077 + 0.5)
    assert value(simpo_loss(T(-0.5), T(-1.0), 2.0, 0.5, label_smoothing=0.1)) == pytest.approx(0.524077)


def test_cpo_by_hand():
    assert value(cpo_loss(T(-10), T(-20), 0.1, 0.0)) == pytest.approx(NLL)
    assert value(cpo_loss(T(-10), T(-20), 0.1, 0.1)) == pytest.approx(NLL + 0.1)
    assert gradients(cpo_loss, -10, -20, beta=0.1, label_smoothing=0.0) == pytest.approx(
        (-0.1 * (1 - S), 0.1 * (1 - S)), abs=1e-7
    )


def test_rrhf_by_hand():
    # worse before better by 1 (−1 over −2), ½ (−1 over −1.5) and ½ (−1.5 over −2)
    assert value(rrhf_loss(T(-1, -2, -1.5), T(1, 3, 2))) == pytest.approx(2.0)
    assert value(rrhf_loss(T(-1, -2, -1.5), T(3, 1, 2))) == 0


def test_rrhf_pairs_only_answers_of_different_scores():
    assert value(rrhf_loss(T(-1, -2, -1.5), T(1, 1, 1))) == 0
    # only −1.5 (score 2) below −1 (score 1) and not the tie of the first two
    assert value(rrhf_loss(T(-1, -3, -1.5), T(1, 1, 2))) == pytest.approx(0.5)


def test_rrhf_moves_every_pair_in_the_wrong_order():
    logprobs = T(-1, -2, -1.5, grad=True)
    rrhf_loss(logprobs, T(1, 3, 2)).backward()
    assert logprobs.grad.tolist() == [2, -2, 0]

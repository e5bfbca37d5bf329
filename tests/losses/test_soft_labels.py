"""Losses of labels that are not sure, against values worked out by hand, and optima in closed form."""

import math
from functools import partial

import pytest
import torch

from easyrlhf.losses.pairwise import DPO_LOSSES, bradley_terry_loss, cpo_loss, dpo_loss, ipo_loss, odds_ratio_loss
from easyrlhf.losses.soft_labels import cross_entropy, label_entropy, soft_label_loss

LN3 = math.log(3)


def T(*values, grad: bool = False) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


NONE = T(0.0)


def test_both_orders_by_their_probability():
    # difference ln 3: −ln σ = ln 4/3 as labelled, ln 4 the other way round; by ¾ and ¼
    found = soft_label_loss(bradley_terry_loss, T(LN3), NONE, T(0.75), NONE)
    assert found.item() == pytest.approx(0.75 * math.log(4 / 3) + 0.25 * math.log(4))


def test_a_tie_is_the_same_either_way_round():
    # ½ ln 4/3 + ½ ln 4
    for pair in ((T(LN3), NONE), (NONE, T(LN3))):
        found = soft_label_loss(bradley_terry_loss, *pair, T(0.5), NONE)
        assert found.item() == pytest.approx(0.5 * math.log(16 / 3))


def test_ipo_by_hand():
    # β ½, so the aim is a margin of 1: (2 − 1)² = 1 as labelled, (−2 − 1)² = 9 the other way round
    found = soft_label_loss(partial(ipo_loss, beta=0.5), T(2.0), NONE, T(0.75))
    assert found.item() == pytest.approx(0.75 * 1 + 0.25 * 9)


def test_label_smoothing_goes_on_top():
    # p(1 − ε) + (1 − p)ε = 0.8 · 0.9 + 0.2 · 0.1 = 0.74 of ln 4/3, and 0.26 of ln 4
    smoothed = partial(dpo_loss, beta=1.0, label_smoothing=0.1)
    found = soft_label_loss(smoothed, T(LN3), NONE, T(0.8))
    assert found.item() == pytest.approx(0.74 * math.log(4 / 3) + 0.26 * math.log(4))


def test_sure_rows_are_not_turned_and_keep_their_columns():
    asked = []

    def loss(chosen, rejected, margin):
        asked.append((chosen.tolist(), rejected.tolist(), margin.tolist()))
        return chosen - rejected - margin

    found = soft_label_loss(loss, T(5.0, 7.0, 9.0), T(1.0, 2.0, 3.0), torch.tensor([1.0, 0.75, 1.0]), T(0.5, 0.0, 1.0))
    assert asked == [([5.0, 7.0, 9.0], [1.0, 2.0, 3.0], [0.5, 0.0, 1.0]), ([2.0], [7.0], [0.0])]
    assert found.tolist() == [3.5, 0.75 * 5 - 0.25 * 5, 5.0]


def test_of_sure_labels_alone_the_loss_itself_comes_back():
    plain = T(1.0, 2.0)
    assert soft_label_loss(lambda *_: plain, T(0.0, 0.0), T(0.0, 0.0), torch.ones(2)) is plain


def test_a_sure_row_has_no_part_in_a_turned_loss_that_overflows():
    # DiscoPOP grows as e^margin the wrong way round: 0 · inf would be NaN
    chosen = torch.tensor([300.0, 1.0], requires_grad=True)
    loss = partial(DPO_LOSSES["discopop"], beta=1.0, label_smoothing=0.0)
    soft_label_loss(loss, chosen, torch.zeros(2), torch.tensor([1.0, 0.9])).sum().backward()
    assert chosen.grad.isfinite().all()


def test_a_soft_label_is_as_many_rows_as_there_were_votes():
    # three votes, one of them against: three rows of weight ⅓ each, in value and in gradient
    for loss in (partial(ipo_loss, beta=0.3), odds_ratio_loss, partial(cpo_loss, beta=0.7, label_smoothing=0.1)):
        one, three = (T(-1.2, -0.7, grad=True) for _ in range(2))
        mixed = soft_label_loss(loss, one[:1], one[1:], T(2 / 3)).sum()
        votes = 2 * loss(three[:1], three[1:]).sum() + loss(three[1:], three[:1]).sum()
        mixed.backward()
        (votes / 3).backward()
        assert mixed.item() == pytest.approx(votes.item() / 3, abs=1e-6)
        torch.testing.assert_close(one.grad, three.grad, rtol=0, atol=1e-6)


def fitted(loss, p: float) -> float:
    """chosen − rejected where two free numbers minimise the loss, by Newton's method on their difference."""
    difference = T(0.0)
    for _ in range(50):
        free = difference.clone().requires_grad_()
        value = soft_label_loss(loss, free, NONE, T(p)).sum()
        (slope,) = torch.autograd.grad(value, free, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), free)
        difference = (free - slope / bend).detach()
    return difference.item()


LOGIT = {0.5: 0.0, 0.6: 0.4054651, 0.9: 2.1972246}  # ln p/(1 − p): ln 1, ln 1.5, ln 9


@pytest.mark.parametrize("p", LOGIT)
def test_two_free_scores_reach_the_logit_of_the_label(p):
    reached = fitted(lambda chosen, rejected: bradley_terry_loss(chosen, rejected, NONE), p)
    assert reached == pytest.approx(LOGIT[p], abs=1e-3)


@pytest.mark.parametrize("p", LOGIT)
def test_dpos_implicit_rewards_reach_the_logit_of_the_label(p):
    beta = 0.1
    assert beta * fitted(partial(dpo_loss, beta=beta, label_smoothing=0.0), p) == pytest.approx(LOGIT[p], abs=1e-3)


@pytest.mark.parametrize("p, margin", [(0.5, 0.0), (0.6, 1.0), (0.9, 4.0)])
def test_ipos_margin_is_in_proportion_to_how_sure_the_label_is(p, margin):
    # (2p − 1)/(2β), β 0.1
    assert fitted(partial(ipo_loss, beta=0.1), p) == pytest.approx(margin, abs=1e-3)


def test_cross_entropy_and_its_floor_by_hand():
    # σ(ln 3) = ¾: −½ ln ¾ − ½ ln ¼ for a tie, −ln ¾ for a sure label
    found = cross_entropy(T(LN3, LN3), T(0.5, 1.0))
    torch.testing.assert_close(found, T(0.5 * math.log(16 / 3), math.log(4 / 3)))
    # ¾: −¾ ln ¾ − ¼ ln ¼ = 0.56233514; a tie ln 2; a sure one 0, and no NaN
    torch.testing.assert_close(label_entropy(T(0.75, 0.5, 1.0)), T(0.562335144618808, math.log(2), 0.0))
    torch.testing.assert_close(
        cross_entropy(T(LN3), T(0.75)), label_entropy(T(0.75))
    )  # the floor is reached at logit p

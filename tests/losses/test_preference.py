"""Losses on comparisons against values worked out by hand."""

import math

import pytest
import torch
from torch import tensor as T

from easyrlhf.losses.pairwise import bradley_terry_loss, centering_loss

ZERO = T([0.0])


def test_bradley_terry_at_a_margin_of_ln_3():
    # -ln σ(ln 3) = -ln ¾ = ln 4/3
    loss = bradley_terry_loss(T([math.log(3)]), ZERO, ZERO)
    assert loss.item() == pytest.approx(math.log(4 / 3))


def test_bradley_terry_of_equal_scores_is_ln_2_and_of_the_wrong_order_is_larger():
    losses = bradley_terry_loss(T([0.0, -math.log(3)]), T([0.0, 0.0]), T([0.0, 0.0]))
    torch.testing.assert_close(losses, T([math.log(2), math.log(4)]))  # -ln σ(-ln 3) = -ln ¼


def test_bradley_terry_depends_on_the_difference_alone():
    torch.testing.assert_close(
        bradley_terry_loss(T([101.0]), T([100.0]), ZERO), bradley_terry_loss(T([1.0]), T([0.0]), ZERO)
    )


def test_a_margin_asks_for_as_much_more_distance():
    # 2 ln 3 - ln 3 = ln 3 is left
    loss = bradley_terry_loss(T([2 * math.log(3)]), ZERO, T([math.log(3)]))
    assert loss.item() == pytest.approx(math.log(4 / 3))


@pytest.mark.parametrize("difference, expected", [(1e4, 0.0), (-1e4, 1e4), (200.0, 0.0), (-200.0, 200.0)])
def test_bradley_terry_of_extreme_scores_is_finite_with_a_finite_gradient(difference, expected):
    chosen = T([difference], requires_grad=True)
    loss = bradley_terry_loss(chosen, ZERO, ZERO)
    loss.sum().backward()
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert chosen.grad.item() == pytest.approx(-1.0 if difference < 0 else 0.0, abs=1e-6)


def test_bradley_terry_pushes_chosen_up_and_rejected_down():
    chosen, rejected = T([0.0], requires_grad=True), T([0.0], requires_grad=True)
    bradley_terry_loss(chosen, rejected, ZERO).sum().backward()
    assert (chosen.grad.item(), rejected.grad.item()) == (-0.5, 0.5)  # -σ(0)


def test_centering_by_hand():
    torch.testing.assert_close(centering_loss(T([1.0, 3.0, -2.0]), T([2.0, -3.0, -1.0])), T([9.0, 0.0, 9.0]))

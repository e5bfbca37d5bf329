"""Masked statistics against sums done by hand."""

import pytest
import torch
from torch import tensor as T

from easyrlhf.losses.masked import masked_mean, masked_std, scale, standardize

JUNK = 1e6


def test_masked_mean_counts_only_what_the_mask_counts():
    x, mask = T([[1.0, 2.0, JUNK], [4.0, JUNK, JUNK]]), T([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert masked_mean(x, mask).item() == pytest.approx(7 / 3)  # (1 + 2 + 4) / 3, not the mean of row means 2.75


def test_masked_mean_of_nothing_is_zero():
    assert masked_mean(T([[5.0]]), T([[0.0]])).item() == 0.0


def test_masked_std_is_the_population_one():
    # mean 2, squares 1 and 1: sqrt(2 / 2) = 1; the sample one would be 1.414
    assert masked_std(T([1.0, 3.0, JUNK]), T([1.0, 1.0, 0.0])).item() == pytest.approx(1.0)


def test_standardize_by_hand():
    # mean 2, deviations -1 0 1, std sqrt(2/3): ±sqrt(3/2) = ±1.224745
    result = standardize(T([[1.0, 2.0, 3.0, JUNK]]), T([[1.0, 1.0, 1.0, 0.0]]))
    torch.testing.assert_close(result, T([[-1.224745, 0.0, 1.224745, 0.0]]), rtol=0, atol=1e-6)


def test_standardize_is_over_the_whole_batch_not_over_each_row():
    result = standardize(T([[1.0, 1.0], [3.0, 3.0]]), torch.ones(2, 2))
    torch.testing.assert_close(result, T([[-1.0, -1.0], [1.0, 1.0]]), rtol=0, atol=1e-6)


def test_standardize_gives_mean_zero_and_std_one_over_the_mask():
    torch.manual_seed(0)
    x, mask = 3 + 2 * torch.randn(5, 7, dtype=torch.float64), (torch.rand(5, 7) < 0.6).double()
    result = standardize(x, mask)
    counted = result[mask.bool()]
    assert counted.mean().item() == pytest.approx(0.0, abs=1e-7)
    assert counted.std(correction=0).item() == pytest.approx(1.0, abs=1e-7)
    assert result[~mask.bool()].abs().max().item() == 0.0


def test_scale_keeps_the_mean_where_it_was_in_units_of_the_std():
    # 2 and 6: mean 4, std 2: 1 and 3, whose mean is still positive
    torch.testing.assert_close(scale(T([2.0, 6.0, JUNK]), T([1.0, 1.0, 0.0])), T([1.0, 3.0, 0.0]), rtol=0, atol=1e-6)
    # -1 and -5: mean -3, std 2
    torch.testing.assert_close(
        scale(T([-1.0, -5.0, JUNK]), T([1.0, 1.0, 0.0])), T([-0.5, -2.5, 0.0]), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("whiten", [standardize, scale])
def test_a_constant_is_not_divided_by_zero(whiten):
    assert torch.isfinite(whiten(torch.zeros(2, 3), torch.ones(2, 3))).all()
    assert standardize(torch.full((2, 3), 7.0), torch.ones(2, 3)).abs().max().item() == 0.0


@pytest.mark.parametrize("value", [0.1, 0.35, 0.7, 1.1, 2.3, 1000.3, -3e-7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_numbers_are_standardised_to_zero_and_not_scaled(value, dtype):
    mask = T([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1]], dtype=dtype)
    x = torch.full((4, 3), value, dtype=dtype) * mask
    assert standardize(x, mask).tolist() == [[0.0] * 3] * 4
    assert standardize(x.where(mask.bool(), T(JUNK, dtype=dtype)), mask).tolist() == [[0.0] * 3] * 4
    assert torch.equal(scale(x, mask), x)


def test_numbers_that_differ_by_rounding_alone_are_equal():
    ones = torch.ones(3)
    assert standardize(T([0.7, 0.7000001, 0.6999999]), ones).tolist() == [0.0, 0.0, 0.0]
    # 0.01 of 1000 is no rounding: mean .005, deviations ±.005, std .005
    found = standardize(T([1000.3, 1000.31, 1000.31, 1000.3]), torch.ones(4))
    assert found.tolist() == pytest.approx([-1.0, 1.0, 1.0, -1.0], abs=1e-2)


@pytest.mark.parametrize("whiten", [standardize, scale])
def test_appended_padding_changes_nothing(whiten):
    torch.manual_seed(0)
    x, mask = torch.randn(3, 4, dtype=torch.float64), torch.ones(3, 4)
    junk = torch.cat([x, torch.full((3, 2), JUNK, dtype=torch.float64)], dim=1)
    wider = torch.cat([mask, torch.zeros(3, 2)], dim=1)
    torch.testing.assert_close(whiten(junk, wider)[:, :4], whiten(x, mask))

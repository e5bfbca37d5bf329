"""One draw: against the cumulative distribution, worked out by hand or by a plain running sum."""

import math
from collections import Counter

import pytest
import torch
from torch import tensor as T

from easyrlhf.rollout.inverse_cdf import BLOCK, draw_tokens, invert

BELOW_1 = 1 - 2**-53  # the largest number that a generator of doubles gives


def test_draw_inverts_the_cumulative_distribution():
    # p = .2 .3 .5: cumulative .2 .5 1
    logits = T([[0.2, 0.3, 0.5]]).log().expand(6, 3)
    uniforms = T([0.0, 0.19, 0.21, 0.49, 0.51, 0.99], dtype=torch.float64)
    tokens, logprobs = draw_tokens(logits, uniforms, 1.0)
    assert tokens.tolist() == [0, 0, 1, 1, 2, 2]
    assert logprobs.exp().tolist() == pytest.approx([0.2, 0.2, 0.3, 0.3, 0.5, 0.5])


def test_draw_divides_logits_by_the_temperature():
    # p² renormalised at temperature ½: .04 .09 .25 over .38 = .105 .237 .658: cumulative .105 .342 1
    logits = T([[0.2, 0.3, 0.5]]).log().expand(4, 3)
    tokens, logprobs = draw_tokens(logits, T([0.10, 0.11, 0.34, 0.35], dtype=torch.float64), 0.5)
    assert tokens.tolist() == [0, 1, 1, 2]
    assert logprobs.exp().tolist() == pytest.approx([4 / 38, 9 / 38, 9 / 38, 25 / 38])


def test_draw_at_temperature_0_takes_the_likeliest_and_scores_it_under_the_plain_softmax():
    tokens, logprobs = draw_tokens(T([[0.2, 0.5, 0.3]]).log(), T([0.99], dtype=torch.float64), 0.0)
    assert tokens.tolist() == [1]
    assert logprobs.exp().item() == pytest.approx(0.5)


@pytest.mark.parametrize("size", [2, 300, 1024, 1025, 1151, 1152, 5000])
def test_draws_from_any_number_of_tokens_are_those_of_the_running_sum(size):
    torch.manual_seed(size)
    logits = 3 * torch.randn(3000, size, dtype=torch.float64)
    uniforms = torch.rand(3000, dtype=torch.float64)
    table = logits.log_softmax(-1)
    expected = (table.exp().cumsum(-1) <= uniforms[:, None]).sum(1).clamp(max=size - 1)
    tokens, logprobs = draw_tokens(logits, uniforms, 1.0)
    assert tokens.tolist() == expected.tolist()
    torch.testing.assert_close(logprobs, table.gather(1, expected[:, None]).squeeze(1), rtol=0, atol=1e-9)


def test_in_float32_only_draws_at_a_boundary_may_differ():
    torch.manual_seed(0)
    logits, uniforms = torch.randn(6000, 2000), torch.rand(6000, dtype=torch.float64)
    cumulative = logits.double().softmax(-1).cumsum(-1)
    close = cumulative[:3000].gather(1, torch.randint(1999, (3000, 1))).squeeze(1)
    uniforms[:3000] = close + 1e-8 * torch.randn(3000, dtype=torch.float64)  # half of them as close as rounding errors
    expected = (cumulative <= uniforms[:, None]).sum(1)
    differing = draw_tokens(logits, uniforms, 1.0)[0] != expected
    nearest = (cumulative - uniforms[:, None]).abs().min(1).values
    assert differing.any()
    assert not differing[nearest >= 1e-5].any()
    assert (nearest >= 1e-5).sum() > 2000


@pytest.mark.parametrize("size", [7, 1100])
def test_tokens_come_as_often_as_they_are_likely(chi_square, size):
    torch.manual_seed(size)
    logits, total = 2 * torch.randn(size), 200_000
    uniforms = torch.rand(total, dtype=torch.float64)
    counts = Counter()
    for some in uniforms.split(20_000):
        counts.update(draw_tokens(logits.expand(len(some), size), some, 1.5)[0].tolist())
    statistic, bound = chi_square(counts, dict(enumerate((logits.double() / 1.5).softmax(-1).tolist())), total)
    assert statistic < bound
    statistic, bound = chi_square(counts, dict(enumerate((logits.double() / 1.4).softmax(-1).tolist())), total)
    assert statistic > bound


@pytest.mark.parametrize("uniform", [0.0, 0.5, BELOW_1])
@pytest.mark.parametrize("size", [5, 128, 1100, 1152])
def test_tokens_without_probability_are_never_drawn(uniform, size):
    # all but two tokens: the ends of a block, whole blocks, and what is left over
    for likely in ((1, 2), (size // 2, size - 2), (0, size - 1)):
        logits = torch.full((1, size), -math.inf)
        logits[0, list(likely)] = 0.0
        tokens, logprobs = draw_tokens(logits, T([uniform], dtype=torch.float64), 1.0)
        assert tokens.item() == likely[int(uniform >= 0.5)]
        assert logprobs.item() == pytest.approx(math.log(0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_draw_between_two_blocks_is_of_neither_one_s_impossible_tokens(dtype):
    torch.manual_seed(0)
    logits = torch.randn(1000, 9 * BLOCK, dtype=dtype)
    logits[:, ::BLOCK] = logits[:, BLOCK - 1 :: BLOCK] = -math.inf  # the first and the last token of every block
    probabilities = logits.softmax(-1)
    ends = probabilities.view(1000, 9, BLOCK).sum(-1).double().cumsum(-1)
    for beside in (-1e-16, 0.0, 1e-16):
        for end in (ends[:, :-1] / ends[:, -1:] + beside).T:
            tokens = invert(probabilities, end)
            assert (probabilities.gather(1, tokens[:, None]) > 0).all()


@pytest.mark.parametrize("size", [50, 1024, 1100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_uniform_number_stays_inside_the_vocabulary(size, dtype):
    torch.manual_seed(0)
    logits = torch.randn(2000, size, dtype=dtype)
    logits[:, -1] = -math.inf
    tokens, _ = draw_tokens(logits, torch.full((2000,), BELOW_1, dtype=torch.float64), 1.0)
    assert tokens.max().item() <= size - 2

"""What replies say: letters, log-probabilities, marks; several verdicts made one. Numbers are worked out by hand."""

import math

import pytest

from easyrlhf.judges.asking import Reply
from easyrlhf.judges.averages import averaged, both_orders, clamped
from easyrlhf.judges.letters import JudgedReply, read_verdict
from easyrlhf.judges.marks import read_mark, reward_of_mark


def reply(said: str = "", **likely: float) -> Reply:
    return Reply(said, tuple((token.replace("_", " "), math.log(p)) for token, p in likely.items()))


def test_variants_of_a_letter_are_added_up_and_a_tie_counts_half():
    found = read_verdict(reply(A=0.3, _A=0.2, B=0.2, _B=0.05, C=0.15, _C=0.05, The=0.05))
    assert found.prefers_a == pytest.approx((0.5 + 0.1) / 0.95)
    assert found.odds == pytest.approx(math.log(0.5 / 0.25))
    assert found.bounded == 0


@pytest.mark.parametrize("token", ["A", " A", "A.", "**A", "(A", '"A', "\u2581A", "\u0120A", "\nA"])
def test_spaces_quotes_and_signs_around_a_letter_are_no_part_of_it(token):
    found = read_verdict(Reply("", ((token, math.log(0.6)), ("B", math.log(0.2)), ("C", math.log(0.1)))))
    assert found.prefers_a == pytest.approx(0.65 / 0.9)


@pytest.mark.parametrize("token", ["a", "An", "AB", "I", "Answer"])
def test_other_tokens_are_no_letter(token):
    found = read_verdict(Reply("", ((token, math.log(0.6)), ("B", math.log(0.2)), ("C", math.log(0.1)))))
    assert found.bounded == 1


def test_a_missing_letter_has_the_smallest_value_that_was_returned_and_is_counted():
    found = read_verdict(reply(A=0.8, C=0.1, The=0.02, I=0.01))
    assert found == JudgedReply(pytest.approx(0.85 / 0.91), pytest.approx(math.log(80)), 1)
    assert read_verdict(reply(B=0.9, The=0.05)).bounded == 2


def test_without_log_probabilities_the_letter_counts():
    assert read_verdict(Reply("B")) == JudgedReply(0.0)
    assert read_verdict(Reply(" C.")) == JudgedReply(0.5)
    assert read_verdict(Reply("A", (("A", 0.0),))) == JudgedReply(1.0)  # one token alone says nothing of the others


def test_a_reply_without_any_letter_is_unreadable():
    assert read_verdict(reply("I", I=0.9, As=0.1)) == JudgedReply(None)
    assert read_verdict(Reply("I cannot judge that")) == JudgedReply(None)


def test_a_likely_token_of_no_chance_at_all_breaks_nothing():
    found = read_verdict(Reply("A", (("A", 0.0), ("B", -9999.0), ("C", -math.inf))))
    assert found.prefers_a == 1 and math.isfinite(found.odds)


@pytest.mark.parametrize(
    "average, orders, preference",
    [
        ("prob", (0.9, 0.4), 0.75),
        ("prob", (1.0, 1.0), 0.5),
        ("logit", (0.8, 0.2), 0.8),
        ("logit", (0.9, 0.5), 0.75),  # odds 9 and 1: their geometric mean is 3
        ("logit", (1.0, 0.0), 1.0),
        ("logit", (1.0, 1.0), 0.5),
    ],
)
def test_both_orders_are_averaged_as_probabilities_or_log_odds(average, orders, preference):
    assert both_orders(*orders, average) == pytest.approx(preference)


@pytest.mark.parametrize("place", [-3.0, 0.4, 2.5])
def test_log_odds_cancel_what_is_added_for_a_place(place):
    """A judge who is sure of an answer at odds 4 to 1, and adds `place` to the log-odds of what is shown first."""
    first = 1 / (1 + math.exp(-(math.log(4) + place)))
    second = 1 / (1 + math.exp(-(-math.log(4) + place)))
    assert both_orders(first, second, "logit") == pytest.approx(0.8)
    assert abs(both_orders(first, second, "prob") - 0.8) > 0.003


def test_a_clamp_is_a_limit_at_both_ends():
    assert [clamped(p, (0.4, 0.6)) for p in (0.1, 0.45, 0.99)] == [0.4, 0.45, 0.6]
    assert clamped(0.99, None) == 0.99
    assert averaged((0.2, 0.4), "prob") == pytest.approx(0.3)


def test_a_mark_is_the_mean_over_the_digits():
    assert read_mark(reply("7", **{"7": 0.5, "_8": 0.25, "9": 0.05, "I": 0.2})) == pytest.approx((3.5 + 2 + 0.45) / 0.8)
    assert read_mark(Reply(" 3.")) == 3
    assert [read_mark(Reply(said)) for said in ("0", "10", "3/9", "good")] == [None] * 4


def test_marks_from_1_to_9_are_rewards_from_minus_1_to_1():
    assert [reward_of_mark(mark) for mark in (1, 5, 7, 9)] == [-1, 0, 0.5, 1]

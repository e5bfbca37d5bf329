"""A judge's mark for one answer, 1 to 9, as a reward."""

from easyrlhf.judges.asking import Reply
from easyrlhf.judges.letters import choice_probabilities, read_choice

MARKS = tuple("123456789")
MIDDLE, REACH = 5.0, 4.0  # marks lie in 5 ± 4


def read_mark(reply: Reply) -> float | None:
    """The mark of a reply: Σ k · P(k) over the digits by their log-probabilities, else the digit; None for neither.

    Digits that are not among the likeliest tokens count as impossible.
    """
    found = choice_probabilities(reply, MARKS)
    if found is None:
        digit = read_choice(reply.said, MARKS)
        return None if digit is None else float(digit)
    return sum(int(digit) * p for digit, p in found.items()) / sum(found.values())


def reward_of_mark(mark: float) -> float:
    """A mark from 1 to 9 as a reward from −1 to 1."""
    return (mark - MIDDLE) / REACH

"""What a judge's reply says: one letter, or how likely each of them was as its first token."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from easyrlhf.judges.asking import Reply

VERDICTS = ("A", "B", "C")
LETTERS = {"A": 1.0, "B": 0.0, "C": 0.5}
AROUND = r"[\s\"'*(\[▁Ġ]*", r"[\s\"'*)\].]*"  # ▁ and Ġ: spaces, in the tokens of servers that do not decode them
ONE_CHOICE = re.compile(rf"{AROUND[0]}([A-Z0-9]){AROUND[1]}")
TINY = 1e-9  # a probability nearer to 0 or 1 is taken for this, where its log-odds are averaged
SMALLEST = 1e-300


@dataclass(frozen=True)
class JudgedReply:
    """What a reply says of a pair, of which A was shown first.

    prefers_a  how sure it is that A is better, 0 to 1; None where it cannot be read
    odds       ln P("A") − ln P("B"); None where the reply has no log-probabilities
    bounded    letters that were not among the likeliest tokens, for which an upper bound stands
    """

    prefers_a: float | None
    odds: float | None = None
    bounded: int = 0


def read_choice(said: Any, choices: tuple[str, ...]) -> str | None:
    """The choice that a text is, perhaps in quotes, brackets or asterisks; None for any other text."""
    found = ONE_CHOICE.fullmatch(said) if isinstance(said, str) else None
    return found[1] if found and found[1] in choices else None


def read_letter(said: Any) -> float | None:
    """The verdict of a reply that is one letter; None for any other reply."""
    letter = read_choice(said, VERDICTS)
    return None if letter is None else LETTERS[letter]


def read_verdict(reply: Reply) -> JudgedReply:
    """What a reply says: by its log-probabilities, P = (pA + ½ pC)/(pA + pB + pC), else by its letter."""
    if reply.prefers_a is not None:
        return JudgedReply(reply.prefers_a)
    found = choice_probabilities(reply, VERDICTS)
    if found is None:
        return JudgedReply(read_letter(reply.said))
    bound = smallest(reply)
    a, b, c = (found.get(letter, bound) for letter in VERDICTS)
    return JudgedReply((a + c / 2) / (a + b + c), _log(a) - _log(b), len(VERDICTS) - len(found))


def choice_probabilities(reply: Reply, choices: tuple[str, ...]) -> dict[str, float] | None:
    """How likely each choice was as the first token, over all tokens that are variants of it ("A", " A").

    Choices that are not among the likeliest tokens are left out; None where none is, or where one token alone is
    known, which says nothing of others.
    """
    if reply.likely is None or len(reply.likely) < 2:
        return None
    found: Counter = Counter()
    for token, logprob in reply.likely:
        if choice := read_choice(token, choices):
            found[choice] += math.exp(logprob)
    return dict(found) if found and sum(found.values()) > 0 else None


def smallest(reply: Reply) -> float:
    """The probability of the least likely token that the judge has named: no other one has more."""
    return math.exp(min(logprob for _, logprob in reply.likely))


def log_odds_of(probability: float) -> float:
    """ln p/(1 − p), finite for 0 and 1 too."""
    p = min(max(probability, TINY), 1 - TINY)
    return math.log(p) - math.log1p(-p)


def _log(probability: float) -> float:
    return math.log(max(probability, SMALLEST))

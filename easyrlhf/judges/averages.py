"""Several verdicts on a pair made one: both orders, several votes, several principles."""

import math
from collections.abc import Sequence
from statistics import fmean

from easyrlhf.judges.letters import log_odds_of


def clamped(probability: float, limits: tuple[float, float] | None) -> float:
    """A probability within limits (Bai et al. 2022, on judges that have reasoned and are too sure)."""
    return probability if limits is None else min(max(probability, limits[0]), limits[1])


def both_orders(a_first: float, a_second: float, average: str) -> float:
    """The preference for an answer that was A in one order and B in the other; each verdict is on the letter A.

    average  prob: mean of probabilities (Lee et al. 2023); logit: of log-odds, which cancels what the judge adds to
             them for a place
    """
    return averaged((a_first, 1 - a_second), average)


def averaged(preferences: Sequence[float], average: str) -> float:
    """The mean of preferences for the same answer, of probabilities (prob) or of log-odds (logit)."""
    if average == "prob" or len(set(preferences)) == 1:
        return fmean(preferences)
    return 1 / (1 + math.exp(-fmean(map(log_odds_of, preferences))))

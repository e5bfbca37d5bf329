"""Several labels of one thing as a single one: pure numpy. docs/labelling.md says which merge is for what."""

import numpy as np

from easyrlhf.labels.reliability import reliabilities
from easyrlhf.labels.votes import Votes

SHARE, MAJORITY, RELIABILITY = "share", "majority", "reliability"


def shares(votes: Votes) -> np.ndarray:
    """p = (wins + ½ ties) / labels of the first answer.  [U], NaN where nobody voted"""
    return mean_of_units(votes, votes.share)


def majorities(votes: Votes) -> np.ndarray:
    """1 where more prefer the first answer than the second, 0 where fewer do, ½ where as many.  [U]"""
    return (1 + np.sign(mean_of_units(votes, votes.verdict.astype(float)))) / 2


def strengths(votes: Votes) -> np.ndarray:
    """The mean signed strength, from -1 to 1.  [U]"""
    return mean_of_units(votes, votes.strength)


def merge_votes(votes: Votes, how: str) -> np.ndarray:
    """The chance that the first answer of each unit is the better one, by one of the three merges.  [U]"""
    return {SHARE: shares, MAJORITY: majorities, RELIABILITY: lambda all: reliabilities(all)[0]}[how](votes)


def mean_of_units(votes: Votes, values: np.ndarray) -> np.ndarray:
    """The mean of a value of each vote over the votes of each unit.  [V] -> [U]"""
    counts = np.bincount(votes.unit, minlength=len(votes.units))
    with np.errstate(invalid="ignore"):
        return np.bincount(votes.unit, values, len(votes.units)) / counts

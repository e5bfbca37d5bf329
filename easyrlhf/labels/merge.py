"""Several labels of one thing as a single one: pure numpy. docs/labelling.md says which merge is for what."""

import numpy as np

from easyrlhf.labels.votes import Votes

SHARE, MAJORITY, RELIABILITY = "share", "majority", "reliability"
FIRM = 1e-10  # a change of accuracies below that ends the iteration
ROUNDS = 1000
PRIOR = 1  # successes and failures that Beta(2, 2) adds: its mode with no label at all is ½


def shares(votes: Votes) -> np.ndarray:
    """p = (wins + ½ ties) / labels of the first answer.  [U], NaN where nobody voted"""
    return mean_of_units(votes, votes.share)


def majorities(votes: Votes) -> np.ndarray:
    """1 where more prefer the first answer than the second, 0 where fewer do, ½ where as many.  [U]"""
    return (1 + np.sign(mean_of_units(votes, votes.verdict.astype(float)))) / 2


def strengths(votes: Votes) -> np.ndarray:
    """The mean signed strength, from -1 to 1.  [U]"""
    return mean_of_units(votes, votes.strength)


def reliabilities(votes: Votes) -> tuple[np.ndarray, np.ndarray]:
    """The chance that the first answer is the better one, given how reliable each annotator is.  [U], [A]

    The one-coin model of Dawid & Skene (1979): each annotator is right with a chance of his own, whatever the unit,
    and both answers are equally likely to be better. Found by EM from the shares, with the prior Beta(2, 2) on each
    accuracy. A tie says nothing; a judge's probability counts as far as it is from ½.
    """
    signed, weight = 2 * votes.share - 1, np.abs(2 * votes.share - 1)
    count = len(votes.annotators)
    given = np.bincount(votes.annotator, weight, count)
    chance, accuracy = shares(votes), np.full(count, 0.5)
    for _ in range(ROUNDS):
        agreed = weight * np.where(signed > 0, chance[votes.unit], 1 - chance[votes.unit])
        before, accuracy = accuracy, (np.bincount(votes.annotator, agreed, count) + PRIOR) / (given + 2 * PRIOR)
        odds = np.bincount(votes.unit, signed * np.log(accuracy / (1 - accuracy))[votes.annotator], len(votes.units))
        chance = np.where(np.isnan(chance), np.nan, 1 / (1 + np.exp(-odds)))
        if np.abs(accuracy - before).max(initial=0) < FIRM:
            break
    return chance, accuracy


def merge_votes(votes: Votes, how: str) -> np.ndarray:
    """The chance that the first answer of each unit is the better one, by one of the three merges.  [U]"""
    return {SHARE: shares, MAJORITY: majorities, RELIABILITY: lambda all: reliabilities(all)[0]}[how](votes)


def mean_of_units(votes: Votes, values: np.ndarray) -> np.ndarray:
    """The mean of a value of each vote over the votes of each unit.  [V] -> [U]"""
    counts = np.bincount(votes.unit, minlength=len(votes.units))
    with np.errstate(invalid="ignore"):
        return np.bincount(votes.unit, values, len(votes.units)) / counts

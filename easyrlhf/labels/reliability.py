"""How reliable annotators are by how they agree: the one-coin model of Dawid & Skene (1979), in pure numpy."""

import numpy as np

from easyrlhf.labels.votes import Votes

FIRM = 1e-10  # a change of accuracies below that ends the iteration
ROUNDS = 1000
PRIOR = 1  # successes and failures that Beta(2, 2) adds: its mode with no label at all is ½
EDGE = 1e-6  # without a prior, no accuracy comes nearer to 0 and 1
GRID = (np.arange(200) + 0.5) / 200  # accuracies that an interval is looked for among
WITHIN = 1.92  # nats below the maximum: half of chi-squared's 95 % point, one degree of freedom
COARSE, FEW_ROUNDS = 1e-5, 300  # enough for an interval


def reliabilities(votes: Votes) -> tuple[np.ndarray, np.ndarray]:
    """The chance that the first answer is the better one, given how reliable each annotator is.  [U], [A]

    Each annotator is right with a chance of his own, whatever the unit, and both answers are equally likely to be
    better. Found by EM from the shares, with the prior Beta(2, 2) on each accuracy. A tie says nothing; a judge's
    probability counts as far as it is from ½.
    """
    first, second = named_answers(votes)
    with np.errstate(invalid="ignore"):
        votes_on = np.bincount(votes.unit, minlength=len(votes.units))
        start = np.bincount(votes.unit, votes.share, len(votes.units)) / votes_on  # NaN where nobody voted
    accuracy = np.full((1, len(votes.annotators)), 0.5)
    chance = np.nan_to_num(start, nan=0.5)[None]
    for _ in range(ROUNDS):
        before, accuracy = accuracy, accuracies_by(chance, first, second, np.ones(len(votes.units)), PRIOR)
        chance = chances_by(accuracy, first, second)
        if np.abs(accuracy - before).max(initial=0) < FIRM:
            break
    return np.where(np.isnan(start), np.nan, chance[0]), accuracy[0]


def named_answers(votes: Votes) -> tuple[np.ndarray, np.ndarray]:
    """How surely each annotator names the first answer of each unit, and the second; 0 for no vote.  [U, A], [U, A]"""
    signed = np.zeros((len(votes.units), len(votes.annotators)))
    np.add.at(signed, (votes.unit, votes.annotator), 2 * votes.share - 1)
    return np.maximum(signed, 0), np.maximum(-signed, 0)


def accuracies_by(
    chance: np.ndarray, first: np.ndarray, second: np.ndarray, times: np.ndarray, prior: int
) -> np.ndarray:
    """The likeliest accuracies where the first answers are better with these chances.  [R, U] -> [R, A]

    times  [U]  how often each unit stands for itself
    """
    agreed = (times * chance) @ first + (times * (1 - chance)) @ second
    given = times @ (first + second)
    return (agreed + prior) / np.maximum(given + 2 * prior, EDGE)  # of one who only ties nothing is known


def chances_by(accuracy: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The chances that first answers are better, by the accuracies of those who voted.  [R, A] -> [R, U]"""
    return 1 / (1 + np.exp(-np.log(accuracy / (1 - accuracy)) @ (first - second).T))


def accuracy_intervals(votes: Votes) -> np.ndarray:
    """The 95 % interval of each annotator's accuracy by the likelihood ratio, without a prior.  [A, 2]

    In it is what the votes can hardly tell from what is likeliest: the others' accuracies chosen to suit it, it is less
    than WITHIN nats less likely. That everyone is wrong explains votes as well as that everyone is right, so labels are
    taken to be right more often than wrong. Units with equal votes, to two digits, are counted, not gone through.
    """
    patterns, of_unit = np.unique(np.round(np.hstack(named_answers(votes)), 2), axis=0, return_inverse=True)
    first, second = np.hsplit(patterns, 2)
    times = np.bincount(of_unit.ravel(), minlength=len(patterns)).astype(float)
    given, start = times @ (first + second), np.clip(reliabilities(votes)[1], EDGE, 1 - EDGE)
    ends = []
    for place in range(len(start)):
        accuracy = np.tile(start, (len(GRID), 1))
        accuracy[:, place] = GRID
        for _ in range(FEW_ROUNDS):
            before, chance = accuracy, chances_by(accuracy, first, second)
            accuracy = np.clip(accuracies_by(chance, first, second, times, 0), EDGE, 1 - EDGE)
            accuracy[:, place] = GRID
            if np.abs(accuracy - before).max() < COARSE:
                break
        likely = np.where((accuracy - 0.5) @ given >= 0, log_likelihoods(accuracy, first, second) @ times, -np.inf)
        inside = GRID[likely >= likely.max() - WITHIN]
        ends.append((min(inside.min() - GRID[0], start[place]), max(inside.max() + GRID[0], start[place])))
    return np.array(ends).reshape(-1, 2)


def log_likelihoods(accuracy: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """How likely the votes on each unit are, but for a constant.  [R, A] -> [R, U]"""
    right, wrong = np.log(accuracy), np.log(1 - accuracy)
    return np.logaddexp(right @ first.T + wrong @ second.T, wrong @ first.T + right @ second.T)

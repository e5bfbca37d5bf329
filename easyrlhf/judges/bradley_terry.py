"""Scores from comparisons of all pairs (Bradley and Terry 1952), by maximum likelihood."""

import numpy as np

RIDGE = 1e-4  # of the scores, without which one that wins always would be infinite
STEPS, CLOSE = 100, 1e-10
EQUAL = 1e-6  # scores nearer to each other are a tie


def bradley_terry_scores(wins: np.ndarray) -> np.ndarray:
    """Scores s with σ(s_i − s_j) as near as can be to wins_ij, by Newton's method; their mean is 0.

    wins     [N, N]  how surely i is better than j, 0 to 1, with wins_ji = 1 − wins_ij; NaN where that is not known
    returns  [N]
    """
    known = ~np.isnan(wins) & ~np.eye(len(wins), dtype=bool)
    wins = np.where(known, wins, 0.0)
    scores = np.zeros(len(wins))
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(scores[None, :] - scores[:, None]))
        gradient = np.where(known, wins - p, 0.0).sum(1) - RIDGE * scores
        weights = np.where(known, p * (1 - p), 0.0)
        curvature = np.diag(weights.sum(1) + RIDGE) - weights
        step = np.clip(np.linalg.solve(curvature, gradient), -1.0, 1.0)
        scores = scores + step
        if np.abs(step).max() < CLOSE:
            break
    return scores - scores.mean()


def are_linked(known: list[tuple[int, int]], count: int) -> bool:
    """Whether all of so many are compared with one another, if only by way of others."""
    reached, todo = {0}, [0]
    while todo:
        one = todo.pop()
        new = {b if a == one else a for a, b in known if one in (a, b)} - reached
        reached |= new
        todo += new
    return len(reached) == count


def places_by_score(scores: np.ndarray) -> list[list[int]]:
    """The places of the scores, best first, equals in one list."""
    order: list[list[int]] = []
    for place in np.argsort(-scores, kind="stable").tolist():
        if order and abs(scores[order[-1][0]] - scores[place]) < EQUAL:
            order[-1].append(place)
        else:
            order.append([place])
    return [sorted(equals) for equals in order]

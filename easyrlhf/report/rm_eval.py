"""The held-out examination of a reward model: accuracy, length, calibration; numpy only, pure."""

import numpy as np

WILSON_Z = 1.959964  # 97.5 % point of the normal distribution: a two-sided 95 % interval
CALIBRATION_EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
HISTOGRAM_BINS = 24


def rm_evaluation(chosen_scores, rejected_scores, chosen_lengths, rejected_lengths) -> dict:
    """Everything rm_eval.json holds, from N held-out pairs.

    chosen_scores, rejected_scores    [N]  scores, finite
    chosen_lengths, rejected_lengths  [N]  completion tokens

    A tie counts one half, in the accuracy and in the length baseline alike.
    ValueError when there is no pair, or a score is not finite.
    returns {"accuracy", "ci95": [low, high], "n", "ties", "length_baseline_accuracy",
             "by_length_gap": [{"low", "high", "n", "accuracy"}],
             "calibration": [{"predicted", "observed", "n"}],
             "chosen_histogram": {"edges", "counts"}, "rejected_histogram": {"edges", "counts"}}
    """
    chosen, rejected = np.asarray(chosen_scores, float), np.asarray(rejected_scores, float)
    gaps = np.asarray(chosen_lengths, int) - np.asarray(rejected_lengths, int)
    if chosen.size == 0:
        raise ValueError("no pair to evaluate: chosen_scores is empty")
    if not (np.isfinite(chosen).all() and np.isfinite(rejected).all()):
        raise ValueError("a held-out score is not finite")
    right = _right(chosen - rejected)
    longer_wins = _right(gaps).mean()
    edges = np.histogram_bin_edges(np.concatenate([chosen, rejected]), HISTOGRAM_BINS)
    return {
        "accuracy": float(right.mean()),
        "ci95": list(wilson(float(right.sum()), right.size)),
        "n": int(right.size),
        "ties": float((chosen == rejected).mean()),
        "length_baseline_accuracy": float(max(longer_wins, 1 - longer_wins)),
        "by_length_gap": by_length_gap(gaps, right),
        "calibration": calibration(chosen - rejected, right),
        "chosen_histogram": _histogram(chosen, edges),
        "rejected_histogram": _histogram(rejected, edges),
    }


def wilson(successes: float, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); it stays inside [0, 1] and holds for small n."""
    share, z2 = successes / n, WILSON_Z**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = WILSON_Z / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def by_length_gap(gaps: np.ndarray, right: np.ndarray) -> list[dict]:
    """Accuracy where the chosen answer is much shorter, shorter, as long, longer, much longer.

    gaps   [N] chosen minus rejected tokens; "much" is beyond the median of the non-zero |gap|
    right  [N] 1, 0, or one half for a tie
    returns the ranges that hold a pair, low and high inclusive
    """
    sizes = np.abs(gaps[gaps != 0])
    much = int(np.median(sizes)) + 1 if sizes.size else 1
    ranges = (
        (gaps <= -much),
        (gaps > -much) & (gaps < 0),
        (gaps == 0),
        (gaps > 0) & (gaps < much),
        (gaps >= much),
    )
    return [
        {
            "low": int(gaps[inside].min()),
            "high": int(gaps[inside].max()),
            "n": int(inside.sum()),
            "accuracy": float(right[inside].mean()),
        }
        for inside in ranges
        if inside.any()
    ]


def calibration(margins: np.ndarray, right: np.ndarray) -> list[dict]:
    """How often the model is right when it says it is p sure: p = sigmoid(|margin|), in five bins.

    margins  [N] chosen minus rejected score
    right    [N] 1, 0, or one half for a tie
    returns the bins that hold a pair: mean p, share right, count
    """
    sure = 1 / (1 + np.exp(-np.abs(margins)))
    bins = np.digitize(sure, CALIBRATION_EDGES[1:-1])
    return [
        {
            "predicted": float(sure[bins == b].mean()),
            "observed": float(right[bins == b].mean()),
            "n": int((bins == b).sum()),
        }
        for b in range(len(CALIBRATION_EDGES) - 1)
        if (bins == b).any()
    ]


def _right(difference: np.ndarray) -> np.ndarray:
    """1 where positive, 0 where negative, one half where zero.  [N]"""
    return (np.sign(difference) + 1) / 2


def _histogram(scores: np.ndarray, edges: np.ndarray) -> dict:
    counts, _ = np.histogram(scores, edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}

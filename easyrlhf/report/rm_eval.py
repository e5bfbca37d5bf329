"""The held-out examination of a reward model: accuracy, length, calibration; numpy only, pure."""

import numpy as np

WILSON_Z = 1.959964  # 97.5 % point of the normal distribution: a two-sided 95 % interval
CALIBRATION_BINS, PAIRS_PER_BIN = 10, 20  # fewer bins where there are fewer pairs
HISTOGRAM_BINS = 24


def rm_evaluation(
    chosen_scores, rejected_scores, chosen_lengths, rejected_lengths, sources=None, probabilities=None
) -> dict:
    """Everything rm_eval.json holds, from N held-out pairs.

    chosen_scores, rejected_scores    [N]  scores, finite
    chosen_lengths, rejected_lengths  [N]  completion tokens
    sources                           [N]  name of the file of each pair; None where it is not known
    probabilities                     [N]  how surely chosen is the better one, ½ to 1; None: 1 each

    A tie of scores counts one half, in the accuracy and in the length baseline alike. Pairs that were labelled a tie
    have no right answer: they count for calibration, cross-entropy, ties and histograms alone.
    ValueError when there is no pair with a right answer, or a score is not finite.
    returns {"accuracy", "ci95": [low, high], "n", "ties", "length_baseline_accuracy",
             "by_length_gap": [{"low", "high", "n", "accuracy"}],
             "calibration": [{"predicted", "observed", "n"}], "ece", "ece_by_chance",
             "by_source": [{"source", "n", "accuracy", "ci95"}], with sources only,
             "cross_entropy", "label_entropy", "labelled_ties", with labels that are not sure only,
             "chosen_histogram": {"edges", "counts"}, "rejected_histogram": {"edges", "counts"}}
    """
    chosen, rejected = np.asarray(chosen_scores, float), np.asarray(rejected_scores, float)
    gaps = np.asarray(chosen_lengths, int) - np.asarray(rejected_lengths, int)
    _check_scores(chosen, rejected)
    labels = np.ones(chosen.size) if probabilities is None else np.asarray(probabilities, float)
    ranked, won = _right(chosen - rejected), _won(labels)
    right, gaps = ranked[won], gaps[won]
    longer_wins = _right(gaps).mean()
    edges = np.histogram_bin_edges(np.concatenate([chosen, rejected]), HISTOGRAM_BINS)
    bins = calibration(chosen - rejected, ranked * labels + (1 - ranked) * (1 - labels))
    return {
        "accuracy": float(right.mean()),
        "ci95": list(wilson(float(right.sum()), right.size)),
        "n": int(right.size),
        "ties": float((chosen == rejected).mean()),
        "length_baseline_accuracy": float(max(longer_wins, 1 - longer_wins)),
        "by_length_gap": by_length_gap(gaps, right),
        "calibration": bins,
        "ece": calibration_error(bins),
        "ece_by_chance": chance_error(bins),
        **({} if sources is None else {"by_source": by_source(np.asarray(sources)[won], right)}),
        **({} if (labels == 1).all() else soft_labels(chosen - rejected, labels)),
        "chosen_histogram": _histogram(chosen, edges),
        "rejected_histogram": _histogram(rejected, edges),
    }


def _check_scores(chosen: np.ndarray, rejected: np.ndarray) -> None:
    if chosen.size == 0:
        raise ValueError("no pair to evaluate: chosen_scores is empty")
    if not (np.isfinite(chosen).all() and np.isfinite(rejected).all()):
        raise ValueError("a held-out score is not finite")


def _won(labels: np.ndarray) -> np.ndarray:
    """Which pairs have a right answer; ValueError when none has."""
    won = labels > 0.5
    if not won.any():
        raise ValueError("no pair to evaluate: all are labelled ties")
    return won


def soft_labels(margins: np.ndarray, labels: np.ndarray) -> dict:
    """What is said of labels that are not sure: their cross-entropy under σ(margin), its floor, and how many are ties.

    margins, labels  [N]
    """
    cost = labels * np.logaddexp(0, -margins) + (1 - labels) * np.logaddexp(0, margins)
    share = np.stack([labels, 1 - labels])
    floor = -(share * np.log(np.where(share > 0, share, 1))).sum(0)
    return {
        "cross_entropy": float(cost.mean()),
        "label_entropy": float(floor.mean()),
        "labelled_ties": int((labels == 0.5).sum()),
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


def by_source(sources, right: np.ndarray) -> list[dict]:
    """Accuracy with its 95 % interval for the pairs of each file, in the order of their first pair.

    sources  [N] names
    right    [N] 1, 0, or one half for a tie
    """
    sources = np.asarray(sources)
    groups = [(str(name), right[sources == name]) for name in dict.fromkeys(sources.tolist())]
    return [
        {
            "source": name,
            "n": int(part.size),
            "accuracy": float(part.mean()),
            "ci95": list(wilson(float(part.sum()), part.size)),
        }
        for name, part in groups
    ]


def calibration(margins: np.ndarray, right: np.ndarray) -> list[dict]:
    """How often the model is right when it says it is p sure: p = sigmoid(|chosen − rejected|).

    The bins hold equally many pairs, as far as pairs of the same p stay together: at most ten bins, of twenty pairs or
    more.

    margins  [N] chosen minus rejected score
    right    [N] 1, 0, or one half for a tie; of a soft label, its probability of what is ranked first
    returns the bins from unsure to sure: mean p, share right, count
    """
    sure = 1 / (1 + np.exp(-np.abs(margins)))
    count = int(np.clip(sure.size // PAIRS_PER_BIN, 1, CALIBRATION_BINS))
    starts = np.sort(sure)[np.arange(1, count) * sure.size // count]
    bins = np.digitize(sure, np.unique(starts))
    return [
        {
            "predicted": float(sure[bins == b].mean()),
            "observed": float(right[bins == b].mean()),
            "n": int((bins == b).sum()),
        }
        for b in np.unique(bins)
    ]


def calibration_error(bins: list[dict]) -> float:
    """Expected calibration error: the mean distance of p and the share right, weighted by pairs."""
    return sum(b["n"] * abs(b["predicted"] - b["observed"]) for b in bins) / sum(b["n"] for b in bins)


def chance_error(bins: list[dict]) -> float:
    """The calibration error that a perfectly calibrated model is to expect on so few pairs.

    √(2/π) standard deviations of the share right in each bin, weighted by pairs.
    """
    spreads = [b["n"] * np.sqrt(2 / np.pi * b["predicted"] * (1 - b["predicted"]) / b["n"]) for b in bins]
    return float(sum(spreads) / sum(b["n"] for b in bins))


def _right(difference: np.ndarray) -> np.ndarray:
    """1 where positive, 0 where negative, one half where zero.  [N]"""
    return (np.sign(difference) + 1) / 2


def _histogram(scores: np.ndarray, edges: np.ndarray) -> dict:
    counts, _ = np.histogram(scores, edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}

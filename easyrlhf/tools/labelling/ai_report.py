"""What a judge is like: how much its verdicts hang on places and lengths, and how far people agree with it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from easyrlhf.config import LabelAIConfig
from easyrlhf.judges.pairs import side
from easyrlhf.labels.agreement import RESAMPLE_SEED, RESAMPLES, cohens_kappa, share_with_interval
from easyrlhf.labels.merge import majorities
from easyrlhf.labels.rows import ANNOTATOR, IMPORT, REFEREE, StoredItem, StoredLabel
from easyrlhf.labels.votes import Unit, votes_of
from easyrlhf.tools.labelling.ai_questions import JudgedPair, JudgesLabel, answer_as_text

OTHERS = {"people": (ANNOTATOR, REFEREE), "imported labels": (IMPORT,)}
EVEN = 0.5  # the share of a judge that does not look at places


@dataclass(frozen=True)
class AskedSoFar:
    """What was asked, and the labels that are there now.

    replies  of this sitting; tokens of all of them
    items    that a judge can compare; alone: single answers, which it cannot
    """

    replies: int
    tokens: int
    items: int
    alone: int
    labels: list[StoredLabel]


def judge_report(
    config: LabelAIConfig,
    me: int,
    concluded: list[tuple[StoredItem, list[JudgedPair], JudgesLabel | None]],
    asked: AskedSoFar,
) -> dict[str, Any]:
    """The findings. Shares have the form {share, low, high, n} or are None where there is nothing to count."""
    pairs = [pair for _, found, _ in concluded for pair in found]
    verdicts = [one for pair in pairs for order in pair.verdicts for one in order]
    preferences = [(pair, pair.preference(config.average, config.limits)) for pair in pairs]
    read = [(pair, preference) for pair, preference in preferences if preference is not None]
    items = [item for item, _, _ in concluded]
    return {
        "annotator": config.annotator,
        "items": asked.items,
        "single_answers": asked.alone,
        "labelled": sum(conclusion is not None for _, _, conclusion in concluded),
        "verdicts": len(verdicts),
        "unreadable": sum(one.prefers_a is None for one in verdicts),
        "by_letter": sum(one.prefers_a is not None and one.odds is None for one in verdicts),
        "bounded_letters": sum(one.bounded for one in verdicts),
        "first_place": first_place(pairs),
        "orders_agree": orders_agree(pairs),
        "place_nats": place_preference(pairs),
        "longer_wins": longer_preferred(read),
        **{f"agreement with {who}": agreement(items, me, roles, asked.labels) for who, roles in OTHERS.items()},
        "replies_now": asked.replies,
        "tokens": asked.tokens,
    }


def first_place(pairs: list[JudgedPair]) -> dict[str, float] | None:
    """The share of verdicts for what was shown first, a tie being half of one; and their mean probability."""
    read = [(pair, one.prefers_a) for pair in pairs for order in pair.verdicts for one in order]
    found = [(pair.item.id, prefers_a) for pair, prefers_a in read if prefers_a is not None]
    share = share_of_items([(item, (1 + side(prefers_a)) / 2) for item, prefers_a in found])
    return share and {**share, "probability": fmean(prefers_a for _, prefers_a in found)}


def orders_agree(pairs: list[JudgedPair]) -> dict[str, float] | None:
    """The share of pairs of which both orders say the same: this answer, that one, or a tie."""
    both = [(pair.item.id, pair.a_first(0), pair.a_first(1)) for pair in pairs]
    return share_of_items([(item, float(side(a) == -side(b))) for item, a, b in both if None not in (a, b)])


def place_preference(pairs: list[JudgedPair]) -> dict[str, float] | None:
    """What a judge adds to the log-odds of the answer that is shown first, in nats, with its 95 % interval.

    By log-probabilities, half the sum of the log-odds of "A" in both orders: what it thinks of the answers cancels.
    Of letters, ½ ln of how often both orders say A over how often both say B, which has the same expectation whatever
    it thinks of the answers, as letters are drawn; half a count is added to each.
    """
    odds = []
    for pair in pairs:
        orders = [[one.odds for one in order if one.odds is not None] for order in pair.verdicts]
        if all(orders):
            odds.append(sum(map(fmean, orders)) / 2)
    if odds:
        error = 1.96 * float(np.std(odds)) / math.sqrt(len(odds))
        return {"nats": fmean(odds), "low": fmean(odds) - error, "high": fmean(odds) + error, "n": len(odds)}
    letters = [(pair.a_first(0), pair.a_first(1)) for pair in pairs]
    sides = [(side(a), side(b)) for a, b in letters if None not in (a, b)]
    if not sides:
        return None
    first, second = (sides.count((place, place)) + 0.5 for place in (1, -1))
    nats, error = math.log(first / second) / 2, 1.96 * math.sqrt(1 / first + 1 / second) / 2
    return {"nats": nats, "low": nats - error, "high": nats + error, "n": len(sides)}


def longer_preferred(read: list[tuple[JudgedPair, float]]) -> dict[str, float] | None:
    """The share of pairs of unequal length whose longer answer is preferred; a tie is half of one."""
    found = []
    for pair, preference in read:
        first, second = (len(answer_as_text(pair.item.answers[place])) for place in (pair.first, pair.second))
        if first != second:
            found.append((pair.item.id, (1 + side(preference) * (1 if first > second else -1)) / 2))
    return share_of_items(found)


def agreement(
    items: list[StoredItem], me: int, roles: tuple[str, ...], labels: list[StoredLabel]
) -> dict[str, Any] | None:
    """How often the judge and the majority of others prefer the same answer, and how far beyond chance.

    Pairs of which one of the two says that both are equal are counted apart.
    """
    known = {item.id for item in items}
    labels = [label for label in labels if label.item in known and not label.repeat]
    ours = sides_of(items, [label for label in labels if label.annotator == me])
    theirs = sides_of(items, [label for label in labels if label.role in roles])
    both = [unit for unit in ours if unit in theirs]
    decided = [unit for unit in both if ours[unit] and theirs[unit]]
    if not decided:
        return None
    table = np.array([(ours[unit], theirs[unit], unit.item) for unit in decided])
    share = share_of_items([(item, float(a == b)) for a, b, item in table.tolist()])
    return {**share, "kappa": with_interval(kappa_of, table), "ties": len(both) - len(decided)}


def sides_of(items: list[StoredItem], labels: list[StoredLabel]) -> dict[Unit, int]:
    """What the majority of labels prefers, by what they are about: 1 the first answer, −1 the second, 0 neither."""
    votes = votes_of(items, labels)
    return {unit: side(share) for unit, share in zip(votes.units, majorities(votes).tolist(), strict=True)}


def kappa_of(table: np.ndarray) -> float | None:
    """Cohen's κ of the first two columns."""
    return cohens_kappa(table[:, 0], table[:, 1])


def with_interval(measure: Callable[[np.ndarray], float | None], table: np.ndarray) -> dict[str, float] | None:
    """A measure of rows with its 95 % interval, percentiles of bootstrap resamples of the rows."""
    value = measure(table)
    if value is None:
        return None
    generator = np.random.default_rng(RESAMPLE_SEED)
    drawn = (measure(table[generator.integers(0, len(table), len(table))]) for _ in range(RESAMPLES))
    low, high = np.percentile([one for one in drawn if one is not None], [2.5, 97.5])
    return {"value": value, "low": float(low), "high": float(high)}


def share_of_items(found: list[tuple[int, float]]) -> dict[str, float] | None:
    """The mean of numbers from 0 to 1, with its interval over items; None where there are none."""
    if not found:
        return None
    items, hits = (np.array(column) for column in zip(*found, strict=True))
    share, low, high = share_with_interval(hits, items)
    return {"share": share, "low": low, "high": high, "n": len(found)}


def report_lines(found: dict[str, Any]) -> Iterator[str]:
    """The findings for a reader."""
    yield f"{found['annotator']}: {found['labelled']:,} of {found['items']:,} items have its label"
    if found["single_answers"]:
        yield f"single answers, which a judge of pairs leaves to people: {found['single_answers']:,}"
    yield f"verdicts {found['verdicts']:,}, unreadable {found['unreadable']:,}" + (
        f", without log-probabilities {found['by_letter']:,}" if found["by_letter"] else ""
    )
    if found["bounded_letters"]:
        yield f"letters not among the likeliest tokens, taken at an upper bound: {found['bounded_letters']:,}"
    if first := found["first_place"]:
        biased = not first["low"] <= EVEN <= first["high"]
        yield f"for the first place: {_share(first)}{' - the place counts' if biased else ''}"
    if found["orders_agree"]:
        yield f"both orders say the same: {_share(found['orders_agree'])}"
    if place := found["place_nats"]:
        yield f"preference for the first place: {place['nats']:+.3f} nats ({place['low']:+.3f} to {place['high']:+.3f})"
    if found["longer_wins"]:
        yield f"the longer answer wins: {_share(found['longer_wins'])}"
    for who in OTHERS:
        if agreed := found[f"agreement with {who}"]:
            kappa = agreed["kappa"]
            beyond = f", kappa {kappa['value']:.2f} ({kappa['low']:.2f} to {kappa['high']:.2f})" if kappa else ""
            yield f"agrees with {who}: {_share(agreed)}{beyond}; ties left out: {agreed['ties']:,}"
    yield f"asked now: {found['replies_now']:,}; tokens read and written in all: {found['tokens']:,}"


def _share(found: dict[str, float]) -> str:
    return f"{found['share']:.1%} ({found['low']:.1%} to {found['high']:.1%}) of {found['n']:,}"

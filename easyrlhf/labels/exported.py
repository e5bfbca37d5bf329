"""From labels to rows that stages learn from; docs/labelling.md has a table of what becomes what."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from easyrlhf.data.chat_template import with_answer
from easyrlhf.data.records import Messages
from easyrlhf.labels.merge import merge_votes, strengths
from easyrlhf.labels.rows import REFEREE, StoredItem, StoredLabel, as_json
from easyrlhf.labels.selection import ChosenLabels
from easyrlhf.labels.values import ANSWER, LIKED, RANKING
from easyrlhf.labels.votes import MIDDLE, Unit, Votes, votes_in, votes_of

Rows = Iterator[dict[str, Any]]
ALL_TIES = "items all of whose answers tie"
OTHER_KINDS = "items of another kind"
NO_VOTE = "items all of whose labels are ties"
NO_EDIT = "items without a better answer"


@dataclass(frozen=True)
class ExportPlan:
    """How labels become rows.

    write_as   probability, margin, rankings, feedback or demonstrations
    merge      share, majority or reliability
    drop_ties  whether a tie counts for nothing, rather than half for each answer
    """

    write_as: str = "probability"
    merge: str = "share"
    drop_ties: bool = False


def exported_rows(chosen: ChosenLabels, plan: ExportPlan, left_out: Counter) -> list[dict[str, Any]]:
    """The rows that labels give, item by item; what gives none is counted by reason."""
    if plan.write_as == "demonstrations":
        rows = [row for item in chosen.items for row in edits_of(item, chosen.labels[item.id])]
        edited = {row["item"] for row in rows}
        left_out[NO_EDIT] += sum(item.id not in edited for item in chosen.items)
        return rows
    if plan.write_as in ("probability", "margin"):
        return list(comparisons(chosen, plan, left_out))
    shares = shares_of_units(chosen, plan)
    return list((rankings if plan.write_as == "rankings" else feedback)(chosen, shares, left_out))


def decisive(chosen: ChosenLabels, plan: ExportPlan) -> tuple[Votes, np.ndarray]:
    """The votes that count for each unit, and which of them are by a referee, whose decision stands alone."""
    labels = chosen.all
    votes = votes_of(chosen.items, labels)
    referees = [number for number, one in chosen.annotators.items() if one.role == REFEREE]
    by_referee = np.isin(np.array(votes.annotators, int)[votes.annotator], referees)
    decided = np.isin(votes.unit, votes.unit[by_referee])
    counts = by_referee | ~decided
    if plan.drop_ties:
        counts &= votes.verdict != 0
    return votes.only(counts), by_referee[counts]


def with_decisions(votes: Votes, by_referee: np.ndarray, how: str) -> np.ndarray:
    """The chance that the first answer of each unit is better: as a referee says, else merged.  [U], NaN for no vote"""
    decisions = merge_votes(votes.only(by_referee), "share")
    return np.where(np.isnan(decisions), merge_votes(votes.only(~by_referee), how), decisions)


def shares_of_units(chosen: ChosenLabels, plan: ExportPlan) -> dict[tuple[int, int, int | None], float]:
    """(item, first, second) → the chance that answer `first` is the better one, or is liked."""
    votes, by_referee = decisive(chosen, plan)
    found = with_decisions(votes, by_referee, plan.merge)
    both = zip(votes.units, found.tolist(), strict=True)
    return {(unit.item, unit.first, unit.second): share for unit, share in both if share == share}


def comparisons(chosen: ChosenLabels, plan: ExportPlan, left_out: Counter) -> Rows:
    """Comparisons of two answers, with the chance that the chosen one is better, or by how much it is."""
    votes, by_referee = decisive(chosen, plan)
    chances = with_decisions(votes, by_referee, plan.merge)
    margins = strengths(votes)
    units = defaultdict(list)
    for unit, chance, margin in zip(votes.units, chances.tolist(), margins.tolist(), strict=True):
        if unit.second is not None and chance == chance:
            units[unit.item].append((unit, chance, margin))
    for item in chosen.items:
        labels = chosen.labels[item.id]
        if item.kind == ANSWER:
            left_out[OTHER_KINDS] += not any(label.edit for label in labels)
        elif not units[item.id]:
            left_out[NO_VOTE] += 1
        for unit, chance, margin in units[item.id]:
            says = {"chosen_probability": max(chance, 1 - chance)} if plan.write_as == "probability" else {}
            if plan.write_as == "margin":
                if margin == 0:
                    left_out[ALL_TIES] += 1
                    continue
                says, chance = {"margin": abs(margin)}, float(margin > 0)
            places = (unit.first, unit.second) if chance >= 0.5 else (unit.second, unit.first)
            yield compared_row(item, places, says, labels)
        yield from edited_comparisons(item, labels, plan)


def compared_row(
    item: StoredItem, places: tuple[int, int], says: dict[str, float], labels: list[StoredLabel]
) -> dict[str, Any]:
    """A row for two answers of an item, the better one first."""
    chosen, rejected = (item.answers[place] for place in places)
    row = {"prompt": item.prompt, "chosen": chosen, "rejected": rejected, **says}
    unit = Unit(item.id, min(places), max(places))
    shares = [share for label in labels for on, share, _ in votes_in(item, label.scale, label.value) if on == unit]
    agreement = sum(shares) / len(shares)
    agreement = agreement if places == (unit.first, unit.second) else 1 - agreement
    return row | about(item, labels, agreement, [item.sources[place] for place in places if item.sources])


def about(
    item: StoredItem, labels: list[StoredLabel], agreement: float | None, sources: list[dict[str, Any]]
) -> dict[str, Any]:
    """What every row says of its labels, and what the chat template is told."""
    says = {
        "labels": len(labels),
        "annotators": sorted({label.annotator for label in labels}),
        "agreement": agreement,
        "flags": dict(sorted(Counter(flag for label in labels for flag in label.flags).items())),
        "item": item.id,
        "sources": sources,
    }
    return {name: value for name, value in (says | item.columns).items() if value is not None}


def edits_of(item: StoredItem, labels: list[StoredLabel]) -> Rows:
    """A demonstration for each better answer that annotators wrote."""
    for text in dict.fromkeys(label.edit for label in labels if label.edit.strip()):
        prompt, completion = with_answer(item.prompt, text)
        own = [label for label in labels if label.edit == text]
        yield {"prompt": prompt, "completion": completion} | about(item, own, None, [])


def edited_comparisons(item: StoredItem, labels: list[StoredLabel], plan: ExportPlan) -> Rows:
    """Each better answer that an annotator wrote, over the best one that was shown to him."""
    for label in labels:
        prompt, written = with_answer(item.prompt, label.edit)
        place = best_shown(item, label)
        rejected = item.answers[place]
        if not label.edit.strip() or as_json(written) == as_json(rejected):
            continue
        says = {"chosen_probability": 1.0} if plan.write_as == "probability" else {}
        sources = [{"written_by": label.annotator}, *item.sources[place : place + 1]]
        yield {"prompt": prompt, "chosen": written, "rejected": rejected, **says} | about(item, [label], None, sources)


def best_shown(item: StoredItem, label: StoredLabel) -> int:
    """The place of the answer that a label prefers; of equals the one that was shown first."""
    if item.kind == RANKING:
        return min(label.value[0], key=list(label.shown).index)
    [vote] = votes_of([item], [label]).verdict.tolist()
    return 0 if item.kind == ANSWER else label.shown[0] if vote == 0 else int(vote < 0)


def rankings(chosen: ChosenLabels, shares: dict[tuple[int, int, int | None], float], left_out: Counter) -> Rows:
    """Rankings by the share of the other answers that each beats; single answers of one prompt by their mean mark."""
    siblings: dict[str, list[StoredItem]] = defaultdict(list)
    for item in chosen.items:
        if item.kind == ANSWER:
            siblings[as_json([item.prompt, item.columns])].append(item)
            continue
        scores = scores_of_answers(item, shares)
        if scores is None or len(set(scores)) == 1:
            left_out[NO_VOTE if scores is None else ALL_TIES] += 1
            continue
        labels = chosen.labels[item.id]
        yield ranking_row(item, item.answers, scores) | about(item, labels, None, item.sources)
    for items in siblings.values():
        marks = [mean_mark(chosen.labels[item.id]) for item in items]
        if len(set(marks)) < 2:
            left_out[ALL_TIES] += len(items)
            continue
        labels = [label for item in items for label in chosen.labels[item.id]]
        sources = [source for item in items for source in item.sources]
        answers = [item.answers[0] for item in items]
        yield ranking_row(items[0], answers, marks) | about(items[0], labels, None, sources)


def ranking_row(item: StoredItem, answers: list[Messages | str], scores: list[float]) -> dict[str, Any]:
    """A ranking, higher scores for better answers."""
    return {"prompt": item.prompt, "completions": answers, "scores": scores}


def scores_of_answers(item: StoredItem, shares: dict[tuple[int, int, int | None], float]) -> list[float] | None:
    """For each answer the mean chance that it beats another one; None where there is no vote."""
    wins: list[list[float]] = [[] for _ in item.answers]
    for first in range(len(item.answers)):
        for second in range(first + 1, len(item.answers)):
            share = shares.get((item.id, first, second))
            if share is not None:
                wins[first].append(share)
                wins[second].append(1 - share)
    return [sum(each) / len(each) for each in wins] if all(wins) else None


def mean_mark(labels: list[StoredLabel]) -> float:
    """The mean mark of a single answer, from 0 to 1: a referee's where there is one."""
    decisions = [label for label in labels if label.role == REFEREE] or labels
    marks = [float(one.value) if one.scale == LIKED else (one.value - 1) / (2 * MIDDLE - 2) for one in decisions]
    return sum(marks) / len(marks)


def feedback(chosen: ChosenLabels, shares: dict[tuple[int, int, int | None], float], left_out: Counter) -> Rows:
    """Single answers, liked or not."""
    for item in chosen.items:
        share = shares.get((item.id, 0, None))
        if item.kind != ANSWER:
            left_out[OTHER_KINDS] += 1
        elif share in (None, 0.5):
            left_out[ALL_TIES if share else NO_VOTE] += 1
        else:
            labels = chosen.labels[item.id]
            row = {"prompt": item.prompt, "completion": item.answers[0], "label": share > 0.5}
            yield row | about(item, labels, max(share, 1 - share), item.sources)

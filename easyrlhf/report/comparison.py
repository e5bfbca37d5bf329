"""What the answers and verdicts of a comparison say: win rates, scores, lengths, KL, and a sentence for each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np

from easyrlhf.report.winrates import length_controlled, longer_wins, mean_interval, win_rate

JUDGE = "judge"


@dataclass(frozen=True)
class ComparedAnswer:
    """What one model said to one prompt.

    prompt     number of the prompt
    sample     number among the answers of this model to it
    scores     by the name of what scored it; None where it does not apply, or the answer was too long
    log_ratio  log-probability under its model less that under the first, nats; None where it was not measured
    """

    prompt: int
    sample: int
    text: str
    finished: bool
    scores: dict[str, float | None] = field(default_factory=dict)
    log_ratio: float | None = None


@dataclass(frozen=True)
class JudgeVerdict:
    """What the judge made of a model's answer beside the first model's.

    prefers  1 the model's, 0 the first's, one half a tie, or between; None where the judge could not be understood
    agree    whether it said the same in both orders; None where it was not asked, or not understood
    """

    prefers: float | None
    agree: bool | None = None


def short_names(paths: Sequence[str]) -> list[str]:
    """What models are called: the last part of each path where that tells them apart, else the paths."""
    names = [PurePath(path).name for path in paths]
    return names if len(set(names)) == len(names) else list(paths)


def measured(
    models: Sequence[str],
    scored_by: Sequence[str],
    answers: Sequence[Sequence[ComparedAnswer]],
    verdicts: Sequence[Sequence[JudgeVerdict]] | None,
) -> dict[str, Any]:
    """All numbers of compare.json about the answers.

    models     [M] their names
    scored_by  names of what scored the answers
    answers    [M][N] of each model to the same prompts, in the same order
    verdicts   [M - 1][N] of the judge on every model but the first; None without a judge
    """
    judged = [JUDGE] * (verdicts is not None) + list(scored_by)
    comparisons = [
        comparison(models[0], models[k], name, answers[0], answers[k], verdicts[k - 1] if name == JUDGE else None)
        for k in range(1, len(models))
        for name in judged
    ]
    return {
        "models": [model_numbers(model, scored_by, own) for model, own in zip(models, answers, strict=True)],
        "comparisons": comparisons,
        "judge": None if verdicts is None else judge_numbers([verdict for own in verdicts for verdict in own]),
        "verdicts": [entry["verdict"] for entry in comparisons],
    }


def model_numbers(model: str, scored_by: Sequence[str], answers: Sequence[ComparedAnswer]) -> dict[str, Any]:
    """The numbers of one model alone."""
    ratios = [(answer.log_ratio, answer.prompt) for answer in answers if answer.log_ratio is not None]
    return {
        "model": model,
        "answers": len(answers),
        "finished": float(np.mean([answer.finished for answer in answers])),
        "empty": sum(not answer.text.strip() for answer in answers),
        "characters": interval([(len(answer.text), answer.prompt) for answer in answers]),
        "scores": {
            name: interval([(a.scores[name], a.prompt) for a in answers if a.scores[name] is not None])
            for name in scored_by
        },
        "kl": interval(ratios),
    }


def interval(values: Sequence[tuple[float, int]]) -> dict[str, Any] | None:
    """Mean of (value, prompt) with its 95 % interval; None for no value."""
    if not values:
        return None
    mean, low, high = mean_interval(*map(np.array, zip(*values, strict=True)))
    return {"mean": mean, "ci95": [low, high], "n": len(values)}


def comparison(
    first: str,
    model: str,
    by: str,
    theirs: Sequence[ComparedAnswer],
    ours: Sequence[ComparedAnswer],
    verdicts: Sequence[JudgeVerdict] | None,
) -> dict[str, Any]:
    """A model against the first one, by one judge.

    theirs, ours  [N] answers of the first model and of the other
    verdicts      [N] of the judge, or None: the higher score wins
    """
    gaps = None if verdicts else [score_gap(by, a, b) for a, b in zip(theirs, ours, strict=True)]
    found = [verdict.prefers for verdict in verdicts] if verdicts else [won(gap) for gap in gaps]
    kept = [i for i, label in enumerate(found) if label is not None]
    entry = {"model": model, "first": first, "by": by, "n": len(kept), "left_out": len(found) - len(kept)}
    if not kept:
        return entry | {"verdict": f"nothing can be said of {model} by {by}: no pair could be judged"}
    labels, prompts = np.array([found[i] for i in kept]), np.array([ours[i].prompt for i in kept])
    lengths = [np.array([len(own[i].text) for i in kept]) for own in (ours, theirs)]
    rate, *ends = win_rate(labels, prompts)
    equal = length_controlled(labels, *lengths, prompts)
    entry |= {
        "prompts": len(np.unique(prompts)),
        "win_rate": rate,
        "ci95": ends,
        "wins": int((labels > 0.5).sum()),
        "ties": int((labels == 0.5).sum()),
        "losses": int((labels < 0.5).sum()),
        "length_controlled": equal and {"win_rate": equal[0], "ci95": list(equal[1:])},
        "longer_wins": longer_wins(labels, *lengths),
        "difference": gaps and interval([(gaps[i], ours[i].prompt) for i in kept]),
    }
    return entry | {"verdict": sentence(entry)}


def score_gap(name: str, theirs: ComparedAnswer, ours: ComparedAnswer) -> float | None:
    """How much higher our answer scores; 0 for equal answers, whose scores rounding may set apart."""
    if (theirs.text, theirs.finished) == (ours.text, ours.finished):
        return None if theirs.scores[name] is None else 0.0
    if theirs.scores[name] is None or ours.scores[name] is None:
        return None
    return ours.scores[name] - theirs.scores[name]


def won(gap: float | None) -> float | None:
    """1 for a higher score, 0 for a lower one, one half for an equal one."""
    return None if gap is None else float((np.sign(gap) + 1) / 2)


def judge_numbers(verdicts: Sequence[JudgeVerdict]) -> dict[str, Any]:
    """How far the judge can be trusted: pairs it was asked about, its agreement with itself, what was unreadable."""
    asked = [verdict.agree for verdict in verdicts if verdict.agree is not None]
    unreadable = sum(verdict.prefers is None for verdict in verdicts)
    return {
        "pairs": len(verdicts),
        "asked": len(asked) + unreadable,
        "agreement": float(np.mean(asked)) if asked else None,
        "unreadable": unreadable,
        "identical": len(verdicts) - len(asked) - unreadable,
    }


def sentence(entry: dict[str, Any]) -> str:
    """The verdict on one comparison."""
    pairs = f"{entry['n']:,} pairs" if entry["prompts"] < entry["n"] else f"{entry['n']:,} prompts"
    share = rate_with_interval(entry["win_rate"], entry["ci95"])
    said = decided(entry["ci95"])
    if not said:
        return (
            f"no difference can be told between {entry['model']} and {entry['first']} by {entry['by']} with {pairs}: "
            f"{entry['model']} wins {share}"
        )
    winner, loser = (entry["model"], entry["first"])[::said]
    if said < 0:
        share = rate_with_interval(1 - entry["win_rate"], [1 - end for end in reversed(entry["ci95"])])
    return f"{winner} beats {loser} by {entry['by']}: {share} of {pairs}{at_equal_length(entry, said)}"


def at_equal_length(entry: dict[str, Any], said: int) -> str:
    """What becomes of a win where length does not count."""
    equal = entry["length_controlled"]
    if equal is None:
        return "; what it would be at equal length cannot be told, as one model always writes more"
    rate, ends = equal["win_rate"], equal["ci95"]
    if said < 0:
        rate, ends = 1 - rate, [1 - end for end in reversed(ends)]
    less = "" if decided(ends) == 1 else ", where no difference can be told"
    if decided(ends) == -1:
        less = ", where it is the other way round"
    return f"; at equal length {rate_with_interval(rate, ends)}{less}"


def decided(ends: Sequence[float]) -> int:
    """1 where the interval lies above one half, −1 below, 0 where it holds it."""
    low, high = ends
    return (low > 0.5) - (high < 0.5)


def rate_with_interval(rate: float, ends: Sequence[float]) -> str:
    """`63.0 % (57.4 to 68.3)`."""
    return f"{rate:.1%} ({ends[0] * 100:.1f} to {ends[1] * 100:.1f})".replace("%", " %")

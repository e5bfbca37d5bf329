"""easyrlhf label agree: how far labels agree, alone and with a reward model; docs/labelling.md."""

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np

from easyrlhf.config import LabelAgreeConfig
from easyrlhf.config.lists import split_list
from easyrlhf.labels.items import text_of_answer
from easyrlhf.labels.measures import GivenLabels, measured_labels, rate, read_labels
from easyrlhf.labels.merge import majorities, shares
from easyrlhf.labels.rows import StoredItem
from easyrlhf.labels.store import Store
from easyrlhf.labels.values import COMPARED
from easyrlhf.labels.votes import Votes, votes_of
from easyrlhf.report.agreement_page import agreement_lines, agreement_page
from easyrlhf.report.console import Console
from easyrlhf.report.rm_eval import calibration, calibration_error, chance_error
from easyrlhf.tools.resumable import write_result

JSON_FILE, PAGE_FILE = "agreement.json", "agreement.html"
MOST = 10  # disagreements that are shown
SHOWN = 200  # characters of a text beside others


def agree(config: LabelAgreeConfig) -> None:
    """Measure the labels; write agreement.json and agreement.html beside labels.db, and print what they say.

    Raises InputError where there are no labels, and for a reward model that cannot be used.
    """
    with Store(config.labels) as store:
        given = read_labels(store, split_list(config.annotators), split_list(config.exclude))
    found = measured_labels(given) | {"easyrlhf_version": importlib.metadata.version("easyrlhf")}
    if config.reward_model:
        found["reward_model"] = reward_part(config, given)
    folder = Path(config.labels)
    write_result(folder / JSON_FILE, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    write_result(folder / PAGE_FILE, agreement_page(found))
    names = {number: one.label for number, one in given.annotators.items()}
    console = Console(config.stage)
    files = [str(folder / JSON_FILE), str(folder / PAGE_FILE)]
    console.note("\n".join([*agreement_lines(found, names, console.width), "", *files]))


def reward_part(config: LabelAgreeConfig, given: GivenLabels) -> dict[str, Any]:
    """How far a reward model and the labels of pairs agree. Raises InputError for a model that cannot be used."""
    labels = [label for label in given.first if given.items[label.item].kind in COMPARED]
    votes = votes_of(given.items.values(), labels)
    items = [given.items[unit.item] for unit in votes.units]
    differences = score_differences(config, items)
    return {"reward_model": config.reward_model} | held_against(votes, items, differences)


def score_differences(config: LabelAgreeConfig, items: list[StoredItem]) -> np.ndarray:
    """Score of the first answer minus that of the second, NaN where one is too long for the model.  [U]"""
    from easyrlhf.data.chat_template import arguments_for
    from easyrlhf.tools.scoring import load_scorer, scores_of

    scorer = load_scorer(config)
    sequences = [
        scorer.renderer.sequence(
            item.prompt, answer, source.get("finished") is not False, arguments_for(item.prompt, item.columns)
        )
        for item in items
        for answer, source in zip(item.answers, item.sources or [{}, {}], strict=True)
    ]
    scores = np.array([np.nan if one is None else one for one in scores_of(scorer, sequences, scorer.limit)], float)
    return scores[0::2] - scores[1::2]


def held_against(votes: Votes, items: list[StoredItem], differences: np.ndarray) -> dict[str, Any]:
    """A reward model's preferences beside the labels of pairs.

    differences  [U]  score of the first answer minus that of the second; NaN for none
    returns {"items", "left_out", "majority", "majority_at_random" (where others were picked by reward), "labels",
             "calibration", "ece", "ece_by_chance", "disagreements"}
    """
    winner, known = 2 * majorities(votes) - 1, ~np.isnan(differences)
    decided = known & (winner != 0)
    right = (1 + np.sign(differences * winner)) / 2
    single = (votes.verdict != 0) & known[votes.unit]
    agreed = np.sign(differences[votes.unit[single]]) == votes.verdict[single]
    random = np.array([item.random for item in items], bool)
    bins = calibration(differences[decided], right[decided]) if decided.any() else []
    return {
        "items": int(decided.sum()),
        "left_out": int((~known).sum()),
        "majority": rate((right[decided] == 1).tolist()),
        "majority_at_random": rate((right[decided & random] == 1).tolist()) if not random.all() else None,
        "labels": rate(agreed.tolist()),
        "calibration": bins,
        "ece": calibration_error(bins) if bins else None,
        "ece_by_chance": chance_error(bins) if bins else None,
        "disagreements": strongest_disagreements(votes, items, np.where(decided & (right == 0), differences, 0.0)),
    }


def strongest_disagreements(votes: Votes, items: list[StoredItem], differences: np.ndarray) -> list[dict[str, Any]]:
    """The pairs on which model and majority disagree most.

    differences  [U]  of the scores; 0 where the two do not disagree
    """
    part = shares(votes)
    found = []
    for place in np.argsort(-np.abs(differences), kind="stable")[:MOST].tolist():
        if differences[place] == 0:
            break
        item, first = items[place], differences[place] > 0
        answers = [text_of_answer(one)[:SHOWN] for one in item.answers]
        found.append(
            {
                "item": item.id,
                "difference": float(abs(differences[place])),
                "share": float(part[place] if first else 1 - part[place]),
                "prompt": text_of_answer(item.prompt)[-SHOWN:],
                "prefers": answers[0 if first else 1],
                "over": answers[1 if first else 0],
            }
        )
    return found

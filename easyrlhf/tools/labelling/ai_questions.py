"""What a judge is asked about an item, and how its verdicts become a label."""

import hashlib
import json
from collections.abc import Generator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from easyrlhf.data.records import Messages
from easyrlhf.judges.asking import Ask, Inquiry, Reply
from easyrlhf.judges.averages import averaged, both_orders, clamped
from easyrlhf.judges.bradley_terry import are_linked, bradley_terry_scores, places_by_score
from easyrlhf.judges.constitution import Principle, drawn_principle
from easyrlhf.judges.letters import VERDICTS, JudgedReply, read_verdict
from easyrlhf.judges.pairs import Pair
from easyrlhf.judges.questions import after_thinking, pair_question, text_to_judge, thinking_question
from easyrlhf.labels.rows import StoredItem
from easyrlhf.labels.values import RANKING

ORDERS = (0, 1)  # the first answer of the pair is A, or B
NO_PRINCIPLE = Principle("")
WARM = 1.0  # temperature of votes


class VerdictQuestion(NamedTuple):
    """What one verdict is about.

    first, second  places of the two answers in the item
    order          0: the first is A; 1: the second is
    """

    item: int
    first: int
    second: int
    principle: str
    order: int
    vote: int


Verdicts = dict[VerdictQuestion, JudgedReply]


@dataclass(frozen=True)
class Manner:
    """How pairs are asked about.

    principles   those of the constitution; every: all of them for each item, else one that is drawn
    votes        letters for each order, drawn at temperature 1; None: one reply, by its log-probabilities
    judge        what tells the judge and its settings from others
    """

    principles: list[Principle]
    every: bool
    votes: int | None
    thoughts: bool
    seed: int
    judge: str

    def of(self, item: StoredItem) -> list[Principle]:
        """The principles that an item is judged by."""
        if not self.principles:
            return [NO_PRINCIPLE]
        return self.principles if self.every else [drawn_principle(self.principles, self.seed, item.id)]

    def questions(self, item: StoredItem) -> list[VerdictQuestion]:
        """Everything that is asked about an item."""
        return [
            VerdictQuestion(item.id, first, second, principle.name, order, vote)
            for first, second in combinations(range(len(item.answers)), 2)
            for principle in self.of(item)
            for order in ORDERS
            for vote in range(self.votes or 1)
        ]

    def inquiry(self, item: StoredItem, question: VerdictQuestion, found: Verdicts) -> Inquiry:
        """What is asked for one verdict, which goes into `found`."""
        places = (question.first, question.second)[:: -1 if question.order else 1]
        pair = Pair(item.prompt, *(answer_as_text(item.answers[place]) for place in places), item.columns)
        [compare] = [one.compare for one in self.of(item) if one.name == question.principle]
        return Inquiry(question, self.steps(pair, compare, question, found))

    def steps(
        self, pair: Pair, compare: str, question: VerdictQuestion, found: Verdicts
    ) -> Generator[Ask, Reply, None]:
        """The questions: for the letter, or for thoughts first."""
        key = (self.seed, question.item, question.first, question.second, question.order, question.vote)
        asked = pair_question(pair, compare)
        if self.thoughts:
            about = thinking_question(pair, compare)
            thoughts = yield Ask("thoughts", about, (), WARM if self.votes else None, (*key, 0), pair)
            asked = after_thinking(about, thoughts.said)
        choices, temperature = ((), WARM) if self.votes else (VERDICTS, None)
        found[question] = read_verdict((yield Ask("letter", asked, choices, temperature, (*key, 1), pair)))

    def request(self, question: VerdictQuestion, ask: Ask) -> str:
        """What a reply is stored under: what it is about, and a digest of all that it depends on."""
        said = json.dumps([self.judge, ask.messages, ask.choices, ask.temperature])
        digest = hashlib.sha256(said.encode()).hexdigest()[:16]
        return (
            f"{question.first},{question.second} order {question.order} vote {question.vote} {ask.name} "
            f"{question.principle or '-'} {digest}"
        )


@dataclass(frozen=True)
class JudgedPair:
    """All that was said of two answers of an item by one principle.

    verdicts  [2][V]  by order and vote
    """

    item: StoredItem
    first: int
    second: int
    principle: str
    verdicts: tuple[list[JudgedReply], list[JudgedReply]]

    def a_first(self, order: int, limits: tuple[float, float] | None = None) -> float | None:
        """How surely the letter A is preferred in an order, over its votes; None where none can be read."""
        read = [one.prefers_a for one in self.verdicts[order] if one.prefers_a is not None]
        return clamped(averaged(read, "prob"), limits) if read else None

    def preference(self, average: str, limits: tuple[float, float] | None) -> float | None:
        """How surely the first answer is better, of both orders; None where one of them cannot be read."""
        orders = [self.a_first(order, limits) for order in ORDERS]
        return None if None in orders else both_orders(*orders, average)


def judged_pairs(item: StoredItem, manner: Manner, found: Verdicts) -> list[JudgedPair] | None:
    """What was said of an item's pairs; None where something has not been asked yet."""
    questions = manner.questions(item)
    if any(question not in found for question in questions):
        return None
    groups: dict[tuple[int, int, str], tuple[list, list]] = {}
    for question in questions:
        group = groups.setdefault((question.first, question.second, question.principle), ([], []))
        group[question.order].append(found[question])
    return [JudgedPair(item, *key, verdicts) for key, verdicts in groups.items()]


@dataclass(frozen=True)
class JudgesLabel:
    """What a judge's label says of an item.

    value   as labels/values.py has it
    detail  what is kept beside it
    """

    value: Any
    detail: dict[str, Any]


def conclude(pairs: list[JudgedPair], average: str, limits: tuple[float, float] | None) -> JudgesLabel | None:
    """The label of an item from all its pairs; None where too little could be read."""
    item, found = pairs[0].item, {}
    for pair in pairs:
        preference = pair.preference(average, limits)
        if preference is not None:
            found.setdefault((pair.first, pair.second), []).append(preference)
    means = {places: averaged(preferences, average) for places, preferences in found.items()}
    detail: dict[str, Any] = {}
    if principles := [name for name in dict.fromkeys(pair.principle for pair in pairs) if name]:
        detail["principles"] = principles
    if item.kind != RANKING:
        return JudgesLabel(means[0, 1], detail) if means else None
    if not are_linked(list(means), len(item.answers)):
        return None
    wins = np.full((len(item.answers), len(item.answers)), np.nan)
    for (first, second), preference in means.items():
        wins[first, second], wins[second, first] = preference, 1 - preference
    scores = bradley_terry_scores(wins)
    return JudgesLabel(places_by_score(scores), detail | {"scores": [round(float(score), 6) for score in scores]})


def answer_as_text(answer: Messages | str) -> str:
    """An answer as the judge reads it: its text, or its turns where it has several."""
    if isinstance(answer, str):
        return answer
    return answer[0]["content"] if len(answer) == 1 else text_to_judge(answer)

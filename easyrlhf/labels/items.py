"""From rows to items: which answers are labelled together, and where each comes from."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from easyrlhf.data.records import Comparison, Demonstration, Feedback, Messages, Prompt, Ranking, Record, answers_of
from easyrlhf.errors import InputError
from easyrlhf.labels.rows import NewItem, as_json
from easyrlhf.labels.values import ANSWER, LIKED, MOST_ANSWERS, ORDER, PAIR, PROBABILITY, RANKING, chance_of, keyed

RANDOM, SPREAD, UNCERTAIN, TOP = "random", "spread", "uncertain", "top"
REWARD_KEYS = ("reward", "score")  # of an answer, as easyrlhf generate and easyrlhf score write them
SAMPLE_KEYS = ("model", "sample", "seed", "temperature", "finished")
FOR_TEMPLATE = ("tools", "chat_template_kwargs")
EMPTY_ANSWERS, EQUAL_ANSWERS, SINGLE = "empty answers", "answers equal to another one", "prompts with a single answer"
TOO_MANY = f"answers beyond the {MOST_ANSWERS} that a ranking shows"
OWN_KIND = {Demonstration: PAIR, Comparison: PAIR, Ranking: RANKING, Feedback: ANSWER}


@dataclass(frozen=True)
class ItemPlan:
    """How items are made of records.

    kind          pair, ranking or answer; None: as the record is, demonstrations of one prompt as a pair
    pick          which two answers of several; None: spread where all have rewards, else random
    random_share  share of the prompts whose two answers are picked by chance all the same
    labels        whether what a row says of its answers becomes a label
    seed          of the choices that are made by chance
    """

    kind: str | None = None
    pick: str | None = None
    random_share: float = 0.2
    labels: bool = True
    seed: int = 42

    def chance(self, *words: Any) -> float:
        """A number from 0 to 1, the same for the same words and seed."""
        return chance_of(str(self.seed).encode(), *words)


@dataclass(frozen=True)
class Candidate:
    """An answer that may be labelled, where it comes from, and how good its row says that it is."""

    answer: Messages | str
    source: dict[str, Any]
    worth: float | None = None

    @property
    def reward(self) -> float | None:
        """What a reward model says of it."""
        return self.source.get("reward")


@dataclass
class PromptGroup:
    """All answers to one prompt, in the order of their rows.

    soft  whether their row says how likely each of two is the better one
    """

    prompt: Messages | str
    columns: dict[str, Any]
    candidates: list[Candidate] = field(default_factory=list)
    soft: bool = False


@dataclass(frozen=True)
class MadeItem:
    """An item, and what its row says of it: (scale, value), or None."""

    item: NewItem
    said: tuple[str, Any] | None = None


def items_of_records(
    records: Iterator[tuple[Record, dict[str, Any]]], plan: ItemPlan, left_out: Counter
) -> Iterator[MadeItem]:
    """The items that records give.

    records   each with what is known of its whole file: model, stage, seed, temperature
    left_out  counts answers and prompts that give no item, by reason
    Raises InputError for a prompt without answers, and for a pick that needs rewards where there are none.
    """
    groups: dict[str, PromptGroup] = {}
    for record, facts in records:
        group = PromptGroup(*asked(record))
        candidates = usable(candidates_of(record, facts), left_out)
        kind = plan.kind or OWN_KIND[type(record)]
        if kind == ANSWER:
            for one in candidates:
                said = (LIKED, record.label) if isinstance(record, Feedback) and plan.labels else None
                yield MadeItem(new_item(ANSWER, group, [one], random=True), said)
        elif isinstance(record, Comparison | Ranking):
            group.candidates = candidates
            group.soft = isinstance(record, Comparison) and record.chosen_probability is not None
            yield from made_of_group(group, kind, plan, left_out)
        else:
            key = as_json([group.prompt, group.columns])
            groups.setdefault(key, group).candidates += candidates
    for group in groups.values():
        group.candidates = without_equals(group.candidates, left_out)
        yield from made_of_group(group, plan.kind or PAIR, plan, left_out)


def asked(record: Record) -> tuple[Messages | str, dict[str, Any]]:
    """The prompt that is answered, and what the chat template is told. Raises InputError where nothing is answered."""
    if isinstance(record, Prompt):
        raise InputError(f"{record.place}: a prompt without answers; easyrlhf generate writes some")
    prompt = record.as_prompt().prompt
    if not prompt:
        raise InputError(f"{record.place}: a text without a prompt; what is labelled answers a prompt")
    return prompt, {name: record.columns[name] for name in FOR_TEMPLATE if record.columns.get(name)}


def candidates_of(record: Record, facts: dict[str, Any]) -> list[Candidate]:
    """The answers of a record with their sources; of a conversation its last answer."""
    answers = answers_of(record)
    if isinstance(record, Demonstration | Feedback):
        answers = [one if isinstance(one, str) else one[-1:] for one in answers]
    worths = worths_of(record)
    return [
        Candidate(answer, source_of_answer(record, place, facts), worth)
        for place, (answer, worth) in enumerate(zip(answers, worths, strict=True))
    ]


def worths_of(record: Record) -> list[float | None]:
    """How good each answer is in the row's own words, in the order of answers_of."""
    match record:
        case Comparison():
            sure = 1.0 if record.chosen_probability is None else record.chosen_probability
            return [sure, 1 - sure]
        case Ranking():
            return list(record.scores)
        case _:
            return [None]


def source_of_answer(record: Record, place: int, facts: dict[str, Any]) -> dict[str, Any]:
    """Where an answer of a record comes from; place is its number in answers_of."""
    columns, source = record.columns, dict(facts)
    if isinstance(record, Comparison):
        side = ("chosen", "rejected")[place]
        values = {key: columns.get(f"{side}_{key}") for key in (*REWARD_KEYS, *SAMPLE_KEYS)}
    elif isinstance(record, Ranking):
        listed = {key: columns.get(f"completion_{key}s") for key in REWARD_KEYS}
        values = {key: value[place] for key, value in listed.items() if isinstance(value, list) and len(value) > place}
    else:
        values = {key: columns.get(key) for key in (*REWARD_KEYS, *SAMPLE_KEYS)}
    reward = next((values[key] for key in REWARD_KEYS if is_number(values.get(key))), None)
    source |= {key: values[key] for key in SAMPLE_KEYS if values.get(key) is not None}
    source |= {} if reward is None else {"reward": float(reward)}
    return source | {"place": record.place}


def is_number(value: Any) -> bool:
    """Whether it is a number that can be compared: not NaN, no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def text_of_answer(answer: Messages | str) -> str:
    """What is said in an answer."""
    return answer if isinstance(answer, str) else "".join(str(turn.get("content") or "") for turn in answer)


def usable(candidates: list[Candidate], left_out: Counter) -> list[Candidate]:
    """Those that say something."""
    kept = [one for one in candidates if text_of_answer(one.answer).strip()]
    left_out[EMPTY_ANSWERS] += len(candidates) - len(kept)
    return kept


def without_equals(candidates: list[Candidate], left_out: Counter) -> list[Candidate]:
    """The first of each text."""
    first = {as_json(one.answer): one for one in reversed(candidates)}
    kept = [one for one in candidates if first[as_json(one.answer)] is one]
    left_out[EQUAL_ANSWERS] += len(candidates) - len(kept)
    return kept


def made_of_group(group: PromptGroup, kind: str, plan: ItemPlan, left_out: Counter) -> Iterator[MadeItem]:
    """The item of the answers to one prompt: a ranking of three or more, else a pair; none where one is left."""
    candidates = without_equals(group.candidates, left_out)
    if len(candidates) < 2:
        left_out[SINGLE] += 1
        return
    by_chance = len(candidates) <= (MOST_ANSWERS if kind == RANKING else 2)  # there is nothing to choose
    if kind == RANKING and len(candidates) > MOST_ANSWERS:
        left_out[TOO_MANY] += len(candidates) - MOST_ANSWERS
        order = sorted(candidates, key=lambda one: keyed(str(plan.seed).encode(), "ranked", as_json(one.answer)))
        candidates, by_chance = [one for one in candidates if one in order[:MOST_ANSWERS]], True
    elif kind == PAIR and len(candidates) > 2:
        candidates, by_chance = picked_pair(group, candidates, plan)
    kind = PAIR if len(candidates) == 2 else kind
    # The item's own order says nothing of what is known of its answers.
    candidates = sorted(candidates, key=lambda one: keyed(b"", as_json(one.answer)))
    worths = [one.worth for one in candidates]
    said = said_of(kind, worths, group.soft) if plan.labels and None not in worths else None
    yield MadeItem(new_item(kind, group, candidates, random=by_chance), said)


def picked_pair(group: PromptGroup, candidates: list[Candidate], plan: ItemPlan) -> tuple[list[Candidate], bool]:
    """Two of several answers, and whether chance alone chose them. Raises InputError where rewards are missing."""
    pairs = list(combinations(candidates, 2))
    key = as_json([group.prompt, group.columns])
    lacking = next((one for one in candidates if one.reward is None), None)
    pick = plan.pick or (RANDOM if lacking else SPREAD)
    if pick == RANDOM or plan.chance("random", key) < plan.random_share:
        return list(pairs[int(plan.chance("pair", key) * len(pairs))]), True
    if lacking:
        raise InputError(
            f"{lacking.source['place']}: --pick {pick} needs a reward of every answer, in a key {REWARD_KEYS[0]} or "
            f"{REWARD_KEYS[1]}, and this one has none; easyrlhf score adds them, or give --pick random"
        )
    if pick == TOP:
        return sorted(candidates, key=lambda one: -one.reward)[:2], False
    best = max if pick == SPREAD else min
    return list(best(pairs, key=lambda pair: abs(pair[0].reward - pair[1].reward))), False


def said_of(kind: str, worths: list[float], soft: bool) -> tuple[str, Any] | None:
    """What a row says of its answers, as a label: (scale, value); None where it says nothing."""
    if soft:
        return (PROBABILITY, worths[0])
    if len(set(worths)) == 1:
        return None
    if kind == PAIR:
        return ("2", 1 if worths[0] > worths[1] else -1)
    return (ORDER, [[i for i, worth in enumerate(worths) if worth == level] for level in sorted(set(worths))[::-1]])


def new_item(kind: str, group: PromptGroup, candidates: list[Candidate], *, random: bool) -> NewItem:
    """An item of answers to one prompt."""
    answers, sources = [one.answer for one in candidates], [one.source for one in candidates]
    return NewItem(kind, group.prompt, answers, sources, group.columns, random)


def check_item(record: Comparison) -> NewItem:
    """A comparison whose answer is known, as a check. Raises InputError for a tie."""
    if record.is_tie:
        raise InputError(f"{record.place}: is a tie (chosen_probability 0.5); a check has a better answer")
    group = PromptGroup(*asked(record), candidates_of(record, {}))
    candidates = sorted(group.candidates, key=lambda one: keyed(b"", as_json(one.answer)))
    item, worths = new_item(PAIR, group, candidates, random=False), [one.worth for one in candidates]
    return NewItem(**vars(item) | {"truth": worths.index(max(worths))})

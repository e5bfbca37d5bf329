"""What the page asks, the buttons that answer it with the keys that press them, and the keys of flags."""

from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

from easyrlhf.errors import InputError
from easyrlhf.labels.values import ANSWER, COMPARED, LIKED, LIKERT, ORDER, RANKING

QUESTIONS = {
    **dict.fromkeys(COMPARED, "Which answer is better?"),
    RANKING: "Rank the answers, the best first.",
    LIKED: "Is this a good answer?",
    LIKERT: "How good is this answer?",
}
# The strengths of a preference for A, strongest first; those for B are the same with the letter changed.
PREFERENCES = {
    "2": ("{} is better",),
    "3": ("{} is better", "About the same"),
    "7": ("{} is much better", "{} is better", "{} is slightly better", "About the same"),
    "8": ("{} is much better", "{} is better", "{} is slightly better", "{} is hardly better"),
}
TIE = "About the same"
MARKS = ("Very bad", "Bad", "Rather bad", "So-so", "Rather good", "Good", "Very good")
REASONS = (
    "I cannot tell which is better",
    "I do not know enough of the subject",
    "It is broken or cannot be read",
    "I would rather not read this",
)
OWN_KEYS = "usnegt?"  # undo, skip, note, better answer, guidelines, new conversation, help


@dataclass(frozen=True)
class Choice:
    """A button.

    key    what presses it
    value  of the label, about the answers as they are shown (labels/values.py)
    side   a, b or tie: its colour
    """

    key: str
    value: Any
    label: str
    side: str = "tie"


def choices_of(kind: str, scale: str) -> list[Choice]:
    """The buttons of a scale, in the order of their keys; a ranking has letters in their place."""
    if scale == ORDER:
        return []
    if scale == LIKED:
        return [Choice("1", False, "No", "b"), Choice("2", True, "Yes", "a")]
    if scale == LIKERT:
        return [Choice(str(mark), mark, words) for mark, words in enumerate(MARKS, 1)]
    words = PREFERENCES[scale]
    strengths = [one for one in words if one != TIE]
    better = [(one.format("A"), len(strengths) - i, "a") for i, one in enumerate(strengths)]
    worse = [(one.format("B"), i - len(strengths), "b") for i, one in reversed(list(enumerate(strengths)))]
    middle = [(TIE, 0, "tie")] if TIE in words else []
    return [
        Choice(str(key), value, label, side) for key, (label, value, side) in enumerate([*better, *middle, *worse], 1)
    ]


def scale_of(kind: str, scale: str) -> str:
    """The scale on which an item of this kind is labelled, where --scale is this one."""
    if kind == RANKING:
        return ORDER
    if kind == ANSWER:
        return LIKERT if scale == LIKERT else LIKED
    return "7" if scale == LIKERT else scale


def question_of(kind: str, scale: str) -> str:
    """What is asked."""
    return QUESTIONS[scale if kind == ANSWER else kind]


def flag_keys(flags: list[str]) -> dict[str, str]:
    """Flag → the letter that toggles it: the first of its own that is free, else any. Raises InputError."""
    taken, found = set(OWN_KEYS), {}
    for flag in flags:
        own = [letter for letter in flag.lower() if letter in ascii_lowercase]
        letters = [*own, *ascii_lowercase]
        key = next((letter for letter in letters if letter not in taken), None)
        if key is None:
            raise InputError(f"--flags: {len(flags)} flags are more than there are free letters; leave some out")
        taken.add(key)
        found[flag] = key
    return found

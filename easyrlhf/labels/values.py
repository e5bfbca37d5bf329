"""What a label says: on which scale, of which answer, and how it reads in the item's own order of answers.

A comparison's value is positive where the first answer is better. A label is given of the answers as they were shown;
`shown` lists their places in the item, and what is kept is about the item's own order.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from easyrlhf.errors import InputError

PAIR, RANKING, ANSWER, CHAT = "pair", "ranking", "answer", "chat"
KINDS_OF_ITEMS = (PAIR, RANKING, ANSWER, CHAT)
COMPARED = (PAIR, CHAT)  # two answers, of which one may be better
MOST_ANSWERS = 9  # of a ranking

# Scale → the strongest preference on it; those of WITHOUT_TIE have no 0.
STRENGTHS = {"2": 1, "3": 1, "7": 3, "8": 4}
WITHOUT_TIE = ("2", "8")
PROBABILITY = "probability"  # that the first answer is better: what a judge gives
LIKED, LIKERT, ORDER = "liked", "likert", "order"
SCALES = {
    **dict.fromkeys(COMPARED, (*STRENGTHS, PROBABILITY)),
    RANKING: (ORDER,),
    ANSWER: (LIKED, LIKERT),
}


def check_value(kind: str, scale: str, value: Any, answers: int) -> None:
    """Raise InputError, which says what is expected, for a value that is none of this scale.

    kind     of the item, which has so many answers
    value    2, 3, 7, 8: whole numbers from -1, -1, -3, -4 to 1, 1, 3, 4, without 0 for 2 and 8; probability: 0 to 1;
             liked: true or false; likert: 1 to 7; order: lists of places of answers, best first, equals in one list
    """
    if kind not in SCALES:
        raise InputError(f"kind {kind!r}: must be one of {', '.join(KINDS_OF_ITEMS)}")
    if scale not in SCALES[kind]:
        raise InputError(f"scale {scale!r}: a label of kind {kind} takes one of {', '.join(SCALES[kind])}")
    if scale == ORDER:
        fits, expected = _is_order(value, answers), f"lists that hold the numbers 0 to {answers - 1} once each"
    elif scale == LIKED:
        fits, expected = isinstance(value, bool), "true or false"
    elif scale == PROBABILITY:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        fits, expected = number and 0 <= value <= 1, "a number from 0 to 1"
    else:
        low, high = (1, 7) if scale == LIKERT else (-STRENGTHS[scale], STRENGTHS[scale])
        whole = isinstance(value, int) and not isinstance(value, bool)
        fits = whole and low <= value <= high and not (value == 0 and scale in WITHOUT_TIE)
        expected = f"a whole number from {low} to {high}{' but 0' * (scale in WITHOUT_TIE)}"
    if not fits:
        raise InputError(f"value {value!r}: on scale {scale} it must be {expected}")


def _is_order(value: Any, answers: int) -> bool:
    if not isinstance(value, list) or any(not isinstance(equals, list) or not equals for equals in value):
        return False
    places = [place for equals in value for place in equals]
    return all(type(place) is int for place in places) and sorted(places) == list(range(answers))


def check_shown(shown: Any, answers: int) -> None:
    """Raise InputError unless `shown` holds the place of each answer once."""
    if not isinstance(shown, list | tuple) or sorted(shown) != list(range(answers)):
        raise InputError(f"shown {shown!r}: must hold the numbers 0 to {answers - 1} once each")


def in_item_order(kind: str, scale: str, value: Any, shown: Sequence[int]) -> Any:
    """A value about answers as they were shown, as one about the item's own order. It is its own inverse for pairs."""
    if kind == RANKING:
        return [sorted(shown[place] for place in equals) for equals in value]
    if kind in COMPARED and list(shown) == [1, 0]:
        return 1 - value if scale == PROBABILITY else -value
    return value


def order_shown(secret: bytes, item: int, annotator: int, answers: int, repeat: bool = False) -> list[int]:
    """In which order an annotator sees the answers of an item: by chance, but the same in every process.

    repeat  it is shown to him again, with the sides of a pair changed
    """
    places = sorted(range(answers), key=lambda place: keyed(secret, "order", item, annotator, place))
    return places[::-1] if repeat else places


def keyed(secret: bytes, *words: Any) -> bytes:
    """Bits that nobody guesses without the secret (HMAC-SHA-256), the same for the same words."""
    return hmac.digest(secret, "\0".join(map(str, words)).encode(), hashlib.sha256)


def chance_of(secret: bytes, *words: Any) -> float:
    """A number from 0 to 1, uniform over the words."""
    return int.from_bytes(keyed(secret, *words)[:8]) / 2**64


def strength_of(scale: str, value: float) -> float:
    """How strongly a comparison's label prefers the first answer, from -1 to 1."""
    return 2 * value - 1 if scale == PROBABILITY else value / STRENGTHS[scale]


def share_of_win(scale: str, value: float) -> float:
    """What a comparison's label gives the first answer: 1 where it is better, ½ for a tie, a judge's probability."""
    return value if scale == PROBABILITY else (1 + (value > 0) - (value < 0)) / 2

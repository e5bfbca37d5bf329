"""Rewards of reasoning-gym's tasks, `reasoning_gym:score` and `reasoning_gym:solved`, and what their scorers do wrong.

Loads reasoning_gym only where one of them is named.
"""

import math
import re
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

from easyrlhf.config.common_fields import REASONING_GYM
from easyrlhf.errors import InputError
from easyrlhf.userfile import Function

COLUMN = "reasoning_gym"  # of a row: the task and the item that the answer is held against
TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
SLOW = ("sokoban", "futoshiki", "knight_swap")  # 0.6 to 2.3 seconds an item
NONSENSE = ("", "I do not know.", "424242", "[1, 2]")  # answers that are worth nothing in any task
WORTH = 0.5  # what nonsense must not be paid
GRIDS = ("arc_agi", "rearc")  # whose scorers compare tuples, which JSON has not


def puzzle_reward(spec: str) -> Function:
    """The reward function that is named as `reasoning_gym:score` or `reasoning_gym:solved`.

    Raises InputError when there is none of that name, or the package is not here.
    """
    flag, name = f"--reward_funcs {spec}", spec.removeprefix(REASONING_GYM)
    if name not in FUNCTIONS:
        known = ", ".join(REASONING_GYM + one for one in FUNCTIONS)
        raise InputError(f"{flag}: there is no reward function {name}; there are {known}")
    package(flag)
    return FUNCTIONS[name]


def package(flag: str) -> ModuleType:
    """The package. Raises InputError when it cannot be imported."""
    try:
        import reasoning_gym
    except ImportError as error:
        raise InputError(
            f"{flag}: reasoning_gym cannot be imported here ({error}); pip install 'easyrlhf[reasoning_gym]'"
        ) from error
    return reasoning_gym


def score(completions: list, reasoning_gym: list, log_extra: Callable[[str, list], None], **_: Any) -> list:
    """What each task's own scorer gives, 0 to 1; for many tasks a wrong answer is worth a little, too.

    reasoning_gym  task, question, answer and metadata of each item, as `easyrlhf data reasoning_gym` writes them
    """
    marks = [mark_answer(said(one), item) for one, item in zip(completions, reasoning_gym, strict=True)]
    log_extra("answer", [said(one) for one in completions])
    log_extra("not scored", [why for _, why in marks])
    return [number for number, _ in marks]


def solved(completions: list, reasoning_gym: list, log_extra: Callable[[str, list], None], **_: Any) -> list:
    """1 for a right answer, to which the scorer gives all, and 0 for any other; arguments as score has them."""
    scores = score(completions, reasoning_gym, log_extra)
    return [None if number is None else float(number >= 1) for number in scores]


FUNCTIONS: dict[str, Function] = {"score": score, "solved": solved}


def said(completion: str | list) -> str:
    """The answer in a completion: what stands last between <answer> and </answer>, else all of it."""
    text = completion if isinstance(completion, str) else str(completion[-1].get("content") or "")
    tagged = TAGGED.findall(text)
    return (tagged[-1] if tagged else text).strip()


def mark_answer(answer: str, item: dict[str, Any] | None) -> tuple[float | None, str | None]:
    """The score of an answer, and why there is none where the scorer failed: such an answer is worth 0.

    A row without the column, of other data, has no score: the function does not apply.
    """
    if item is None:
        return None, None
    try:
        number = float(scorer(item["task"])(answer, as_entry(item)))
    except Exception as error:  # scorers read what a model has written, and some raise on words
        return 0.0, f"{item['task']}'s scorer raised {type(error).__name__}: {error}"
    if not math.isfinite(number):
        return 0.0, f"{item['task']}'s scorer gave {number}"
    return min(max(number, 0.0), 1.0), None


@cache
def scorer(task: str) -> Callable[[str, dict[str, Any]], float]:
    """The scorer of a task: score_answer(answer, entry)."""
    return package("reasoning_gym").create_dataset(task, size=1, seed=0).score_answer


def as_entry(item: dict[str, Any]) -> dict[str, Any]:
    """An item of a row as the scorers know it."""
    metadata = as_tuples(item["metadata"]) if item["task"] in GRIDS else item["metadata"]
    return {"question": item["question"], "answer": item["answer"], "metadata": metadata}


def as_tuples(value: Any) -> Any:
    """A value with tuples for lists, however deep."""
    if isinstance(value, dict):
        return {key: as_tuples(one) for key, one in value.items()}
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def paid_for_nonsense(items: list[dict[str, Any]]) -> float:
    """The most that a task pays for an answer that is worth nothing, mean over these items."""
    return max(sum(mark_answer(text, item)[0] for item in items) / len(items) for text in NONSENSE)

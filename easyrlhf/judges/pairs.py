"""Pairs of answers that are judged, in both orders: asked about side by side, and both verdicts made one."""

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from easyrlhf.data.records import Messages


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, as a judge sees them.

    prompt   a string or messages, as the data have it
    columns  the other columns of the prompt's row
    """

    prompt: Messages | str
    answer_a: str
    answer_b: str
    columns: dict[str, Any]

    def shown(self) -> str:
        """The pair, for a message."""
        prompt = self.prompt if isinstance(self.prompt, str) else self.prompt[-1]["content"]
        return f"  prompt: {prompt!r}\n  answer_a: {self.answer_a!r}\n  answer_b: {self.answer_b!r}"


@dataclass(frozen=True)
class Opinion:
    """What a judge made of a pair.

    prefers_a  1 for A, 0 for B, one half for a tie, or anything between; None where its answer could not be read
    said       its words, where it has any
    """

    prefers_a: float | None
    said: str | None = None


def ask_all(
    judge: Callable[[Pair], Opinion], workers: int, pairs: list[tuple[Any, Pair]], keep: Callable[[Any, Opinion], None]
) -> None:
    """Ask about every pair, so many at a time; each opinion is kept as soon as it is there.

    pairs  (what `keep` knows the pair by, the pair)
    When one fails, no further question is begun, those on their way are kept, and its RunError is raised.
    """

    failed = threading.Event()

    def ask(key: Any, pair: Pair) -> None:
        if failed.is_set():
            return
        try:
            keep(key, judge(pair))
        except BaseException:
            failed.set()
            raise

    if workers == 1:
        for item in pairs:
            ask(*item)
        return
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(ask, *item) for item in pairs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C too, nothing new is asked
    for future in futures:
        if not future.cancelled():
            future.result()


def merged_opinions(first_order: float | None, second_order: float | None) -> tuple[float | None, bool | None]:
    """One verdict from both orders of a pair: (preference for the model's answer, whether the orders agree).

    Each is the preference for the same answer, 0 to 1. Orders that disagree on the side make a tie; (None, None) when
    one of them could not be read.
    """
    if first_order is None or second_order is None:
        return None, None
    agree = side(first_order) == side(second_order)
    return ((first_order + second_order) / 2 if agree else 0.5), agree


def side(preference: float) -> int:
    """1 above one half, −1 below, 0 for a tie."""
    return (preference > 0.5) - (preference < 0.5)

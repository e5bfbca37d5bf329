"""Questions to a judge, some of which follow from replies to others; a reply is kept as soon as it is there."""

import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from easyrlhf.data.records import Messages
from easyrlhf.errors import RunStopped
from easyrlhf.judges.pairs import Pair, ask_all

CHARACTERS = 4  # of a token, about, where a server does not say how many it has used


@dataclass(frozen=True)
class Ask:
    """One question.

    name         what it is called among the questions of its inquiry
    messages     the conversation that is to be answered
    choices      the letters or digits of which one is the answer, where their log-probabilities are wanted; () for text
    temperature  None: the judge's own
    key          what a model in this process draws its answer from; integers >= 0
    pair         what a python function sees in place of the conversation
    """

    name: str
    messages: Messages
    choices: tuple[str, ...] = ()
    temperature: float | None = None
    key: tuple[int, ...] = (0,)
    pair: Pair | None = None


@dataclass(frozen=True)
class Reply:
    """What was said.

    said       the text
    likely     the first token's likeliest candidates with their log-probabilities, where the judge gives them
    tokens     read and written
    finished   whether the text came to an end by itself
    prefers_a  the verdict of a python function, 0 to 1
    """

    said: str
    likely: tuple[tuple[str, float], ...] | None = None
    tokens: int = 0
    finished: bool = True
    prefers_a: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without what is as usual."""
        found: dict[str, Any] = {"said": self.said, "tokens": self.tokens}
        found |= {} if self.likely is None else {"likely": [list(one) for one in self.likely]}
        found |= {} if self.finished else {"finished": False}
        return found | ({} if self.prefers_a is None else {"prefers_a": self.prefers_a})

    @classmethod
    def of(cls, found: dict[str, Any]) -> "Reply":
        """The reply that as_dict wrote."""
        likely = found.get("likely")
        more = {"likely": None if likely is None else tuple((token, logprob) for token, logprob in likely)}
        return cls(**(found | more))


class Answering(Protocol):
    """A judge that answers questions.

    name     what reports call it
    model    what else tells it from others
    workers  questions that may be under way side by side
    batch    questions that it answers in one go; above 1 they come from one thread
    """

    name: str
    model: str
    workers: int
    batch: int

    def replies(self, asks: list[Ask]) -> list[Reply]:
        """The replies, in the order of the questions. Raises RunError."""


@dataclass
class Inquiry:
    """Questions that follow from each other.

    key    what `known` and `keep` know it by
    steps  yields an Ask and is sent its Reply
    """

    key: Any
    steps: Generator[Ask, Reply, None]


@dataclass
class Budget:
    """Tokens that may be used, and those that were, in all sittings."""

    most: int | None = None
    used: int = 0
    asked: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self) -> None:
        """Raise RunStopped when nothing is left."""
        if self.most is not None and self.used >= self.most:
            raise RunStopped(
                f"Stopped: {self.used:,} tokens are used, and --judge_budget is {self.most:,}. All replies are kept; "
                "the same command with a larger budget goes on"
            )

    def spend(self, reply: Reply) -> None:
        """Count a reply."""
        with self._lock:
            self.used += reply.tokens
            self.asked += 1


@dataclass(frozen=True)
class Replies:
    """What is known already, and where new replies go.

    known  (inquiry's key, question) → its reply, or None
    keep   is given each new one, which is on disk when it returns
    """

    known: Callable[[Any, Ask], Reply | None]
    keep: Callable[[Any, Ask, Reply], None]


def answer_inquiries(
    judge: Answering, inquiries: list[Inquiry], replies: Replies, budget: Budget, advance: Callable[[int], None]
) -> None:
    """Ask every question of every inquiry whose reply is not known.

    advance  is called with 1 for every inquiry that is done
    When one fails no further question is begun, those under way are kept, and its error is raised. Raises RunError;
    RunStopped when the budget is used up.
    """

    def ask(key: Any, asks: list[Ask]) -> list[Reply]:
        budget.check()
        found = judge.replies(asks)
        for one, question, reply in zip(key, asks, found, strict=True):
            replies.keep(one, question, reply)
            budget.spend(reply)
        return found

    if judge.batch > 1:
        _in_rounds(judge.batch, inquiries, replies, ask, advance)
        return

    def carry_out(inquiry: Inquiry) -> None:
        question = next(inquiry.steps, None)
        while question is not None:
            reply = replies.known(inquiry.key, question) or ask([inquiry.key], [question])[0]
            question = _following(inquiry, reply)

    ask_all(carry_out, judge.workers, [(inquiry.key, inquiry) for inquiry in inquiries], lambda key, done: advance(1))


def _in_rounds(
    batch: int,
    inquiries: list[Inquiry],
    replies: Replies,
    ask: Callable[[list, list[Ask]], list[Reply]],
    advance: Callable[[int], None],
) -> None:
    """The first open questions of all inquiries, a batch at a time, then those that follow."""

    def to_open(inquiry: Inquiry, question: Ask | None) -> Ask | None:
        while question is not None and (reply := replies.known(inquiry.key, question)):
            question = _following(inquiry, reply)
        if question is None:
            advance(1)
        return question

    waiting = [
        (inquiry, question) for inquiry in inquiries if (question := to_open(inquiry, next(inquiry.steps, None)))
    ]
    while waiting:
        following, todo = [], iter(waiting)
        while part := list(islice(todo, batch)):
            found = ask([inquiry.key for inquiry, _ in part], [question for _, question in part])
            for (inquiry, _), reply in zip(part, found, strict=True):
                if question := to_open(inquiry, _following(inquiry, reply)):
                    following.append((inquiry, question))
        waiting = following


def _following(inquiry: Inquiry, reply: Reply) -> Ask | None:
    """The next question of a inquiry; None when it is done."""
    try:
        return inquiry.steps.send(reply)
    except StopIteration:
        return None


def about_tokens(asked: Messages, said: str) -> int:
    """Tokens that a question and its reply have, about."""
    return (sum(len(turn["content"]) for turn in asked) + len(said)) // CHARACTERS

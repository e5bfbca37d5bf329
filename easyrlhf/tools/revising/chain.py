"""An answer, its critiques and its revisions: what is asked, and the row that comes of it."""

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from easyrlhf.data.chat_template import with_answer
from easyrlhf.data.records import Messages, Prompt
from easyrlhf.judges.asking import Ask, Reply
from easyrlhf.judges.constitution import Principle, drawn_principle
from easyrlhf.judges.questions import critique_question, revision_question

UNCHANGED, EMPTY, CUT_OFF = "unchanged", "empty", "cut off or too long"


@dataclass
class Revised:
    """What became of an answer.

    first  the first answer
    steps  principle, critique and revision of each step that changed it
    lost   (why a revision was left out, its principle) → how many
    """

    first: str
    steps: list[dict[str, str]] = field(default_factory=list)
    lost: Counter = field(default_factory=Counter)

    @property
    def last(self) -> str:
        """The answer as it is now."""
        return self.steps[-1]["revision"] if self.steps else self.first


def revising(
    prompt: Messages | str, revised: Revised, principles: list[Principle], key: tuple[int, ...]
) -> Generator[Ask, Reply, None]:
    """Ask for a critique and a revision by each principle in turn; what comes of it goes into `revised`.

    key  what a model in this process draws from
    """
    for step, principle in enumerate(principles):
        asked = critique_question(prompt, revised.last, principle.critique)
        critique = yield Ask(f"critique {step}", asked, key=(*key, step, 0))
        wanted = revision_question(asked, critique.said, principle.revise)
        reply = yield Ask(f"revision {step}", wanted, key=(*key, step, 1))
        if why := why_left_out(reply, revised.last):
            revised.lost[why, principle.name] += 1
        else:
            found = {"principle": principle.name, "critique": critique.said, "revision": reply.said.strip()}
            revised.steps.append(found)


def principles_of(constitution: list[Principle], seed: int, number: int, revisions: int) -> list[Principle]:
    """The principles that a prompt's answer is revised by, each drawn by itself."""
    return [drawn_principle(constitution, seed, number, step) for step in range(revisions)]


def why_left_out(reply: Reply, answer: str) -> str | None:
    """Why a revision is not taken; None where it is."""
    if not reply.finished:
        return CUT_OFF
    text = reply.said.strip()
    return EMPTY if not text else UNCHANGED if text == answer.strip() else None


def revised_row(to: str, record: Prompt, revised: Revised) -> dict[str, Any]:
    """The row; of columns of one name, the new one stays."""
    prompt, last = with_answer(record.prompt, revised.last)
    _, first = with_answer(record.prompt, revised.first)
    answers = {"completion": last} if to == "demonstrations" else {"chosen": last, "rejected": first}
    row = {"prompt": prompt, **answers, "first_answer": revised.first, "steps": revised.steps}
    return row | {name: value for name, value in record.columns.items() if name not in row}

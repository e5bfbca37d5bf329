"""What judges are asked, word for word."""

import re

from easyrlhf.data.records import Messages
from easyrlhf.judges.pairs import Pair

WORTH = (
    "which one serves the user better: correct, relevant to what was asked, harmless, and clear. "
    "Neither the order nor the length of the answers counts."
)
ONE_LETTER = (
    "Reply with one letter and nothing else: A if answer A is better, B if answer B is better, C if they are equally "
    "good."
)
COMPARE = "You compare two answers to the same conversation. Judge {worth}"
QUESTION = """\
# Conversation
{prompt}

# Answer A
{answer_a}

# Answer B
{answer_b}

"""
WHICH = "Which answer is better? Reply with A, B or C."
THINK = "Think first: say in a few sentences what speaks for and against each answer. Do not say yet which is better."
MARK = """\
You mark an answer to a conversation with a whole number from 1, the worst, to 9, the best.
{rubric}
Reply with one digit and nothing else."""
RUBRIC = """\
9 is an answer that is correct, to the point, complete, harmless and clear; 5 one that helps in part or has faults \
that matter; 1 one that is wrong, harmful or no answer to what was asked. Length alone earns nothing."""
MARKED = """\
# Conversation
{prompt}

# Answer
{answer}

Which mark does the answer get? Reply with one digit from 1 to 9."""
CRITICISE = """\
# Conversation
{prompt}

# Answer
{answer}

# What to look at
{critique}

Say in a few sentences where the answer falls short of this, and where it does not."""
REVISE = """\
# What to do
{revise}

Write the whole answer anew, changing no more than that asks for. Reply with the new answer and nothing else. If \
nothing is to be changed, repeat the answer word for word."""


def pair_question(pair: Pair, principle: str = "") -> Messages:
    """Which of two answers is better, in one letter; by a principle where there is one."""
    return [_instruction(principle, ONE_LETTER), _asked(pair, WHICH)]


def thinking_question(pair: Pair, principle: str = "") -> Messages:
    """What speaks for and against two answers, without a verdict."""
    return [_instruction(principle, ""), _asked(pair, THINK)]


def after_thinking(asked: Messages, thoughts: str) -> Messages:
    """The conversation of thinking_question, gone on to the letter."""
    said = {"role": "assistant", "content": thoughts}
    return [*asked, said, {"role": "user", "content": f"{ONE_LETTER}\n{WHICH}"}]


def mark_question(prompt: Messages | str, answer: str, rubric: str = RUBRIC) -> Messages:
    """How good an answer is, in one digit."""
    asked = fill(MARKED, prompt=text_to_judge(prompt), answer=answer)
    return [
        {"role": "system", "content": fill(MARK, rubric=rubric)},
        {"role": "user", "content": asked},
    ]


def critique_question(prompt: Messages | str, answer: str, critique: str) -> Messages:
    """Where an answer falls short of a principle."""
    asked = fill(CRITICISE, prompt=text_to_judge(prompt), answer=answer, critique=critique)
    return [{"role": "user", "content": asked}]


def revision_question(asked: Messages, critique: str, revise: str) -> Messages:
    """The conversation of critique_question, gone on to a better answer."""
    said = {"role": "assistant", "content": critique}
    return [*asked, said, {"role": "user", "content": fill(REVISE, revise=revise)}]


def fill(template: str, **texts: str) -> str:
    """A template with its names in braces filled in; braces of the texts stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda found: texts[found[1]], template)


def text_to_judge(prompt: Messages | str) -> str:
    """A prompt as the judging model reads it."""
    return prompt if isinstance(prompt, str) else "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in prompt)


def _instruction(principle: str, ending: str) -> dict[str, str]:
    worth = f"them by this alone: {principle}" if principle else WORTH
    return {"role": "system", "content": f"{fill(COMPARE, worth=worth)}\n{ending}".strip()}


def _asked(pair: Pair, ending: str) -> dict[str, str]:
    texts = {"prompt": text_to_judge(pair.prompt), "answer_a": pair.answer_a, "answer_b": pair.answer_b}
    return {"role": "user", "content": fill(QUESTION, **texts) + ending}

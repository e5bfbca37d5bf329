"""Row formats of demonstrations, feedback and prompts: each parser takes (row, notes) and gives its record.

What every format reads alike (system texts, tools, columns) is added by data/formats.py.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from easyrlhf.data import fields
from easyrlhf.data.comparisons import conversation_of, has_conversation, question_in, whole_conversation
from easyrlhf.data.messages import is_empty, messages
from easyrlhf.data.records import Demonstration, Feedback, Messages, Prompt
from easyrlhf.data.row_errors import ContentFault

AFTER_THE_ANSWER = "rows with turns after the last answer, left out"
OPENED = "rows that the assistant opens: its first turn is context"
EMPTY_BETWEEN = "rows with an empty answer before the last, which is context"


# --- demonstrations


def parse_prompt_completion(row: dict, notes: Counter) -> Demonstration:
    """TRL's prompt-completion rows."""
    prompt, completion = _prompt_and_completion(row)
    return _learnable(Demonstration(prompt, completion), notes)


def _prompt_and_completion(row: dict) -> tuple[str | Messages, str | Messages]:
    prompt = fields.text_or_messages(fields.need(row, "prompt"), "prompt")
    completion = fields.text_or_messages(fields.need(row, "completion"), "completion")
    fields.same_form(prompt, completion, "completion")
    fields.check_prompt(prompt)
    fields.check_completion(completion, "completion")
    return prompt, completion


def parse_conversation(row: dict, notes: Counter) -> Demonstration:
    """One whole conversation, in `messages` or `conversations`."""
    return _demonstration(conversation_of(row), notes)


def parse_query_response(row: dict, notes: Counter) -> Demonstration:
    """ms-swift: a question, its answer, and earlier ones in `history`."""
    return _demonstration(whole_conversation(row), notes)


def parse_alpaca(row: dict, notes: Counter) -> Demonstration:
    """Stanford Alpaca: instruction, perhaps an input below it, the output, and perhaps earlier turns in `history`."""
    return _demonstration([*fields.instructed(row), *fields.only_answer(row, "output")], notes)


def parse_text(row: dict, notes: Counter) -> Demonstration:
    """Plain text, all of which is learned."""
    text = fields.text(fields.need(row, "text"), "text")
    fields.check_completion(text, "text")
    return Demonstration("", text)


def _demonstration(turns: Messages, notes: Counter) -> Demonstration:
    """Split a conversation at its first answer to anybody, and leave out what follows its last one."""
    answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not answers:
        raise ContentFault("no assistant turn")
    asked = next((i for i, turn in enumerate(turns) if turn["role"] in ("user", "tool")), 0)
    first, last = next((i for i in answers if i > asked), answers[0]), answers[-1]
    notes[OPENED] += first > answers[0]
    notes[AFTER_THE_ANSWER] += last + 1 < len(turns)
    prompt, completion = turns[:first], turns[first : last + 1]
    fields.check_prompt(prompt)
    fields.check_completion(completion, "messages")
    return _learnable(Demonstration(prompt, completion), notes)


def _learnable(record: Demonstration, notes: Counter) -> Demonstration:
    """The record, its empty answers switched off. Raises ContentFault when no answer is left to learn from."""
    if isinstance(record.completion, str):
        return record
    empty = [turn["role"] == "assistant" and is_empty(turn) for turn in record.completion]
    notes[EMPTY_BETWEEN] += any(empty)
    turns = [turn | ({"learned": False} if off else {}) for turn, off in zip(record.completion, empty, strict=True)]
    if not any(turn["role"] == "assistant" and turn.get("learned", True) for turn in turns):
        raise ContentFault("no turn to learn from")
    return replace(record, completion=turns)


# --- feedback


def parse_unpaired(row: dict, notes: Counter) -> Feedback:
    """TRL's unpaired preference: an answer that was liked or not."""
    return _feedback(*_prompt_and_completion(row), row)


def parse_argilla_kto(row: dict, notes: Counter) -> Feedback:
    """An instruction, perhaps an input below it, and an answer."""
    return _feedback(fields.instructed(row), fields.only_answer(row, "completion", "output"), row)


def answer_to(key: str) -> Callable[[dict, Counter], Feedback]:
    """The parser of rows with a question in this key and its answer in `completion`, both strings."""

    def parse(row: dict, notes: Counter) -> Feedback:
        question = fields.text(fields.need(row, key), key)
        return _feedback(fields.question_turn(row, question), fields.only_answer(row, "completion"), row)

    return parse


def parse_labelled_chat(row: dict, notes: Counter) -> Feedback:
    """A whole conversation in `completion`, whose last answer was liked or not."""
    turns = messages(fields.need(row, "completion"), "completion")
    return _feedback(*fields.last_answer(turns), row)


def parse_swift_kto(row: dict, notes: Counter) -> Feedback:
    """A whole conversation in `messages` or `conversations`, or ms-swift's `query` and `response`, and a label."""
    return _feedback(*fields.last_answer(whole_conversation(row)), row)


def _feedback(prompt, completion, row: dict) -> Feedback:
    fields.check_prompt(prompt)
    fields.check_completion(completion, "completion")
    return Feedback(prompt, completion, fields.label(row))


# --- prompts


def parse_conversation_prompt(row: dict, notes: Counter) -> Prompt:
    """A conversation up to the answer that is to be sampled; an answer at its end becomes the column `completion`."""
    if not has_conversation(row):
        return Prompt(question_in(row, "query"))
    turns = conversation_of(row)
    if not turns or turns[-1]["role"] != "assistant":
        fields.check_question(turns)
        return Prompt(turns)
    fields.check_prompt(turns[:-1])
    return Prompt(turns[:-1], {"completion": turns[-1:]}, answers=("completion",))


def parse_messages_prompt(row: dict, notes: Counter) -> Prompt:
    """A conversation that waits for its answer, or for the rest of it."""
    turns = conversation_of(row)
    fields.check_question(turns)
    return Prompt(turns)


def parse_prompt(row: dict, notes: Counter) -> Prompt:
    """TRL's prompt-only rows."""
    prompt = fields.text_or_messages(fields.need(row, "prompt"), "prompt")
    fields.check_question(prompt)
    return Prompt(prompt)

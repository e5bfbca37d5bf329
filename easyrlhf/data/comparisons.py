"""Row formats of comparisons: each parser takes (row, notes) and gives a Comparison.

What every format reads alike (system texts, tools, columns) is added by data/formats.py.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

from easyrlhf.data import fields, hh
from easyrlhf.data.messages import messages
from easyrlhf.data.records import Comparison, Messages
from easyrlhf.data.row_errors import ContentFault, StructuralFault

EQUAL = "chosen equals rejected"
QUESTIONS = ("instruction", "prompt", "question", "query", "input")


def parse_hh(row: dict, notes: Counter) -> Comparison:
    """Two transcripts with Human and Assistant markers."""
    chosen = fields.text(fields.need(row, "chosen"), "chosen")
    rejected = fields.text(fields.need(row, "rejected"), "rejected")
    return _comparison(*hh.split_pair(chosen, rejected, notes), row)


def parse_preference(row: dict, notes: Counter) -> Comparison:
    """TRL's preference rows, with the prompt in its own key or at the start of both answers."""
    chosen = fields.text_or_messages(fields.need(row, "chosen"), "chosen")
    rejected = fields.text_or_messages(fields.need(row, "rejected"), "rejected")
    if isinstance(chosen, str) is not isinstance(rejected, str):
        raise StructuralFault("'chosen' and 'rejected' are a string and messages; use one form")
    if "prompt" not in row:
        split = _split_texts if isinstance(chosen, str) else hh.split_messages
        return _comparison(*split(chosen, rejected), row)
    prompt = fields.text_or_messages(fields.need(row, "prompt"), "prompt")
    fields.same_form(prompt, chosen, "chosen")
    return _comparison(prompt, chosen, rejected, row)


def parse_ultra(row: dict, notes: Counter) -> Comparison:
    """Binarised UltraFeedback: two whole conversations, and the question of a single turn once more in `prompt`."""
    chosen = messages(fields.need(row, "chosen"), "chosen")
    rejected = messages(fields.need(row, "rejected"), "rejected")
    question = None if row.get("prompt") is None else fields.text(row["prompt"], "prompt")
    if question is not None and chosen and chosen[0]["role"] == "assistant":
        return _comparison(fields.question_turn({}, question), chosen, rejected, row)
    shared, chosen, rejected = hh.split_messages(chosen, rejected)
    if question is not None and len(shared) == 1:
        shared = fields.question_turn({}, question)
    return _comparison(shared, chosen, rejected, row)


def parse_argilla(row: dict, notes: Counter) -> Comparison:
    """An instruction, perhaps an input below it, and two answers; their keys may end with `_response`.

    Rows of which axolotl's `chatml` and `llama3` take another key for the question are read as these do.
    """
    key = next((key for key in QUESTIONS if row.get(key) is not None), "instruction")
    return _answered(fields.instructed(row) if key == "instruction" else question_in(row, key), row)


def asking(key: str) -> Callable[[dict, Counter], Comparison]:
    """The parser of rows with a question in this key and two answers, all of them strings."""

    def parse(row: dict, notes: Counter) -> Comparison:
        return _answered(question_in(row, key), row)

    return parse


def question_in(row: dict, key: str) -> Messages:
    """The question in this key, as messages."""
    return fields.question_turn(row, fields.text(fields.need(row, key), key))


def _answered(prompt: Messages, row: dict) -> Comparison:
    """The comparison of a row whose answers are strings, under either pair of names."""
    names = [(name, f"{name}_response") for name in ("chosen", "rejected")]
    keys = [next((name for name in pair if name in row), pair[0]) for pair in names]
    chosen, rejected = (fields.answer_turn(fields.text(fields.need(row, key), key)) for key in keys)
    return _comparison(prompt, chosen, rejected, row)


def parse_messages_pairs(row: dict, notes: Counter) -> Comparison:
    """A conversation up to the answer, and two answers: each a string, a turn, or turns of which the last counts."""
    key = conversation_key(row)
    value = fields.need(row, key)
    prompt = fields.question_turn({}, value) if isinstance(value, str) else messages(value, key)
    chosen, rejected = (_one_turn(fields.need(row, side), side) for side in ("chosen", "rejected"))
    return _comparison(prompt, chosen, rejected, row)


def _one_turn(value: Any, key: str) -> Messages:
    if isinstance(value, str):
        return fields.answer_turn(value)
    return messages([value] if isinstance(value, dict) else value, key)[-1:]


def parse_swift(row: dict, notes: Counter) -> Comparison:
    """ms-swift: a conversation that ends with the chosen answer, and what would have been worse."""
    turns = whole_conversation(row)
    if row.get("rejected_messages") is not None:
        others = messages(row["rejected_messages"], "rejected_messages")
        return _comparison(*hh.split_messages(turns, others), row)
    prompt, chosen = fields.last_answer(turns)
    rejected = fields.need(row, "rejected_response")
    rejected = fields.answer_turn(rejected) if isinstance(rejected, str) else messages(rejected, "rejected_response")
    if rejected and rejected[0]["role"] != "assistant":  # a whole conversation
        return _comparison(*hh.split_messages(turns, rejected), row)
    return _comparison(prompt, chosen, rejected, row)


def has_conversation(row: dict) -> bool:
    """Whether a row has a conversation in a key of its own."""
    return "messages" in row or "conversations" in row


def conversation_key(row: dict) -> str:
    """The key of a row's conversation."""
    return "conversations" if "conversations" in row and row.get("messages") is None else "messages"


def conversation_of(row: dict) -> Messages:
    """The turns of a row's conversation."""
    key = conversation_key(row)
    return messages(fields.need(row, key), key)


def whole_conversation(row: dict) -> Messages:
    """The conversation of ms-swift's rows: `messages`, or `query` and `response` behind their `history`."""
    if has_conversation(row):
        return conversation_of(row)
    return [*question_in(row, "query"), *fields.only_answer(row, "response")]


def _split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Cut two texts before the word at which they part; the space goes to the answers."""
    if chosen == rejected:
        raise ContentFault(EQUAL)
    cut = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
    cut = cut or min(len(chosen), len(rejected))
    while cut > 0 and not (chosen[cut : cut + 1].isspace() and rejected[cut : cut + 1].isspace()):
        cut -= 1
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _comparison(prompt, chosen, rejected, row: dict) -> Comparison:
    """A checked comparison."""
    fields.check_prompt(prompt)
    fields.check_completion(chosen, "chosen")
    fields.check_completion(rejected, "rejected")
    if chosen == rejected:
        raise ContentFault(EQUAL)
    margin, probability = fields.optional_number(row, "margin"), _probability(row)
    if margin is not None and probability is not None:
        raise StructuralFault(
            "keys 'margin' and 'chosen_probability': say by how much or how surely, not both; give one, and take the "
            "other out with --field margin= or --field chosen_probability="
        )
    return Comparison(prompt, chosen, rejected, margin, chosen_probability=probability)


def _probability(row: dict) -> float | None:
    """How surely the chosen answer is the better one; None where the row does not say."""
    probability = fields.optional_number(row, "chosen_probability")
    if probability is None or 0.5 <= probability <= 1:
        return probability
    if 0 <= probability < 0.5:
        raise StructuralFault(
            f"key 'chosen_probability': {probability:g} is below 0.5, so the pair is the wrong way round; swap chosen "
            f"and rejected, and write {1 - probability:g}"
        )
    raise StructuralFault(
        f"key 'chosen_probability': expected a probability from 0.5 (a tie) to 1, found {probability:g}"
    )

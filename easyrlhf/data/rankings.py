"""Row formats of rankings: each parser takes (row, notes) and gives a Ranking.

What every format reads alike (system texts, tools, columns) is added by data/formats.py.
"""

from collections import Counter

from easyrlhf.data import fields, hh
from easyrlhf.data.records import Ranking
from easyrlhf.data.row_errors import ContentFault, StructuralFault


def parse_ranking(row: dict, notes: Counter) -> Ranking:
    """A prompt, its answers, and their scores or their ranks."""
    prompt = fields.text_or_messages(fields.need(row, "prompt"), "prompt")
    completions = [
        fields.text_or_messages(answer, f"completions[{i}]")
        for i, answer in enumerate(fields.list_items(fields.need(row, "completions"), "completions"))
    ]
    given = [key for key in ("scores", "ranks") if row.get(key) is not None]
    if len(given) == 2:
        raise StructuralFault("both 'scores' and 'ranks' are given; keep one")
    key = given[0] if given else "scores"
    numbers = [
        fields.finite_number(n, f"{key}[{i}]") for i, n in enumerate(fields.list_items(fields.need(row, key), key))
    ]
    if len(numbers) != len(completions):
        raise StructuralFault(
            f"key '{key}': expected one number for each of the {len(completions)} completions, found {len(numbers)}"
        )
    scores = [-rank for rank in numbers] if key == "ranks" else numbers
    return _ranking(prompt, completions, scores)


def parse_nectar(row: dict, notes: Counter) -> Ranking:
    """Nectar: a question or a transcript that asks for an answer, and answers with ranks (1 is best)."""
    question = fields.text(fields.need(row, "prompt"), "prompt")
    turns = hh.read_turns(question, "prompt") if hh.is_transcript(question) else fields.question_turn({}, question)
    if turns[-1] == {"role": "assistant", "content": ""}:
        turns.pop()
    prompt = hh.join_turns(turns)
    notes[hh.JOINED] += len(prompt) < len(turns)
    answers = fields.objects(fields.need(row, "answers"), "answers", "answer", "rank")
    texts = [fields.text(answer, f"answers[{i}].answer") for i, (answer, _) in enumerate(answers)]
    scores = [-fields.finite_number(rank, f"answers[{i}].rank") for i, (_, rank) in enumerate(answers)]
    return _ranking(prompt, list(map(fields.answer_turn, texts)), scores)


def parse_ultrafeedback(row: dict, notes: Counter) -> Ranking:
    """UltraFeedback: an instruction, and responses with overall scores."""
    prompt = fields.question_turn(row, fields.text(fields.need(row, "instruction"), "instruction"))
    answers = fields.objects(fields.need(row, "completions"), "completions", "response", "overall_score")
    texts = [fields.text(answer, f"completions[{i}].response") for i, (answer, _) in enumerate(answers)]
    scores = [fields.finite_number(score, f"completions[{i}].overall_score") for i, (_, score) in enumerate(answers)]
    return _ranking(prompt, list(map(fields.answer_turn, texts)), scores)


def _ranking(prompt, completions: list, scores: list[float]) -> Ranking:
    fields.check_prompt(prompt)
    for i, completion in enumerate(completions):
        fields.same_form(prompt, completion, f"completions[{i}]")
        fields.check_completion(completion, f"completions[{i}]")
    if len(completions) < 2:
        raise ContentFault("fewer than two completions")
    if len(set(scores)) == 1:
        raise ContentFault("all ties")
    if all(completion == completions[0] for completion in completions):
        raise ContentFault("all completions equal")
    return Ranking(prompt, completions, scores)

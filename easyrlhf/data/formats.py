"""The row formats: one table of name -> who recognises a row, who turns it into a record."""

import difflib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from easyrlhf.data import fields, hh
from easyrlhf.data.faults import ContentFault, StructuralFault
from easyrlhf.data.records import (
    Comparison,
    Demonstration,
    Feedback,
    Messages,
    Prompt,
    Ranking,
    Record,
)
from easyrlhf.errors import InputError

AFTER_THE_ANSWER = "rows with turns after the last answer, left out"


@dataclass(frozen=True)
class Format:
    """One way to write a row.

    keys       what a row holds, for messages and help
    record     the kind of record it becomes
    recognise  row -> whether it is written this way (looking at keys first)
    parse      (row, place, notes) -> record; raises StructuralFault or ContentFault
    """

    keys: str
    record: type
    recognise: Callable[[dict], bool]
    parse: Callable[[dict, str, Counter], Record]


def recognise(row: Any) -> str | None:
    """The name of the format a row is written in, or None."""
    if not isinstance(row, dict):
        return None
    return next((name for name, form in FORMATS.items() if form.recognise(row)), None)


def variant(name: str, row: dict) -> str:
    """A format's name and the form of this row: rows of one file must agree on both."""
    keyed = [key for key in ("prompt", "chosen", "rejected") if key in row]
    if name not in ("preference", "prompt_completion", "unpaired", "ranking", "prompt") or not keyed:
        return name
    form = "conversational" if isinstance(row[keyed[0]], list) else "standard"
    return f"{name}, {form}" + (", implicit prompt" if keyed[0] != "prompt" else "")


def require_format(name: str) -> str:
    """The name itself when the table has it; otherwise InputError with the nearest one."""
    if name in FORMATS:
        return name
    near = difflib.get_close_matches(name, FORMATS, 1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise InputError(f"unknown format '{name}'; use one of {', '.join(FORMATS)}{hint}")


def table() -> str:
    """All formats with their keys, one a line, for messages."""
    return "\n".join(f"  {name}: {form.keys}" for name, form in FORMATS.items())


def parse_hh(row: dict, place: str, notes: Counter) -> Comparison:
    """Two transcripts with Human and Assistant markers."""
    chosen = fields.text(fields.need(row, "chosen"), "chosen")
    rejected = fields.text(fields.need(row, "rejected"), "rejected")
    return _comparison(*hh.split_pair(chosen, rejected, notes), row, place)


def parse_preference(row: dict, place: str, notes: Counter) -> Comparison:
    """TRL's preference rows, with the prompt in its own key or at the start of both answers."""
    chosen = fields.text_or_messages(fields.need(row, "chosen"), "chosen")
    rejected = fields.text_or_messages(fields.need(row, "rejected"), "rejected")
    if type(chosen) is not type(rejected):
        raise StructuralFault("'chosen' and 'rejected' are a string and messages; use one form")
    if "prompt" not in row:
        split = _split_texts if isinstance(chosen, str) else hh.split_messages
        return _comparison(*split(chosen, rejected), row, place)
    prompt = fields.text_or_messages(fields.need(row, "prompt"), "prompt")
    fields.same_form(prompt, chosen, "chosen")
    return _comparison(prompt, chosen, rejected, row, place)


def _split_texts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Cut two texts before the word at which they part; the space goes to the answers."""
    if chosen == rejected:
        raise ContentFault("chosen equals rejected")
    cut = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
    cut = cut or min(len(chosen), len(rejected))
    while cut > 0 and not (chosen[cut : cut + 1].isspace() and rejected[cut : cut + 1].isspace()):
        cut -= 1
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _comparison(prompt, chosen, rejected, row: dict, place: str) -> Comparison:
    fields.check_prompt(prompt)
    fields.check_completion(chosen, "chosen")
    fields.check_completion(rejected, "rejected")
    if chosen == rejected:
        raise ContentFault("chosen equals rejected")
    margin = row.get("margin")
    margin = None if margin is None else fields.number(margin, "margin")
    columns = _columns(row, "prompt", "chosen", "rejected", "margin")
    return Comparison(prompt, chosen, rejected, margin, columns, place)


def parse_unpaired(row: dict, place: str, notes: Counter) -> Feedback:
    """TRL's unpaired preference: an answer that was liked or not."""
    prompt, completion = _prompt_and_completion(row)
    label = fields.boolean(fields.need(row, "label"), "label")
    columns = _columns(row, "prompt", "completion", "label")
    return Feedback(prompt, completion, label, columns, place)


def parse_ranking(row: dict, place: str, notes: Counter) -> Ranking:
    """A prompt, its answers, and their scores or their ranks."""
    prompt = fields.text_or_messages(fields.need(row, "prompt"), "prompt")
    completions = [
        fields.text_or_messages(answer, f"completions[{i}]")
        for i, answer in enumerate(fields.items(fields.need(row, "completions"), "completions"))
    ]
    given = [key for key in ("scores", "ranks") if row.get(key) is not None]
    if len(given) == 2:
        raise StructuralFault("both 'scores' and 'ranks' are given; keep one")
    key = given[0] if given else "scores"
    numbers = [fields.number(n, f"{key}[{i}]") for i, n in enumerate(fields.items(fields.need(row, key), key))]
    if len(numbers) != len(completions):
        raise StructuralFault(
            f"key '{key}': expected one number for each of the {len(completions)} completions, found {len(numbers)}"
        )
    scores = [-rank for rank in numbers] if key == "ranks" else numbers
    return _ranking(prompt, completions, scores, _columns(row, "prompt", "completions", *given), place)


def parse_nectar(row: dict, place: str, notes: Counter) -> Ranking:
    """Nectar: a transcript that asks for an answer, and answers with ranks (1 is best)."""
    turns = hh.read_turns(fields.text(fields.need(row, "prompt"), "prompt"), "prompt")
    if turns[-1] == {"role": "assistant", "content": ""}:
        turns.pop()
    prompt = hh.join_turns(turns)
    notes[hh.JOINED] += len(prompt) < len(turns)
    answers = fields.objects(fields.need(row, "answers"), "answers", "answer", "rank")
    texts = [fields.text(answer, f"answers[{i}].answer") for i, (answer, _) in enumerate(answers)]
    scores = [-fields.number(rank, f"answers[{i}].rank") for i, (_, rank) in enumerate(answers)]
    return _ranking(prompt, list(map(_said, texts)), scores, _columns(row, "prompt", "answers"), place)


def parse_ultrafeedback(row: dict, place: str, notes: Counter) -> Ranking:
    """UltraFeedback: an instruction, and responses with overall scores."""
    prompt = [{"role": "user", "content": fields.text(fields.need(row, "instruction"), "instruction")}]
    answers = fields.objects(fields.need(row, "completions"), "completions", "response", "overall_score")
    texts = [fields.text(answer, f"completions[{i}].response") for i, (answer, _) in enumerate(answers)]
    scores = [fields.number(score, f"completions[{i}].overall_score") for i, (_, score) in enumerate(answers)]
    return _ranking(prompt, list(map(_said, texts)), scores, _columns(row, "instruction", "completions"), place)


def _said(answer: str) -> Messages:
    return [{"role": "assistant", "content": answer}]


def _ranking(prompt, completions: list, scores: list[float], columns: dict, place: str) -> Ranking:
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
    return Ranking(prompt, completions, scores, columns, place)


def parse_prompt_completion(row: dict, place: str, notes: Counter) -> Demonstration:
    """TRL's prompt-completion rows."""
    prompt, completion = _prompt_and_completion(row)
    return Demonstration(prompt, completion, _columns(row, "prompt", "completion"), place)


def _prompt_and_completion(row: dict) -> tuple[str | Messages, str | Messages]:
    prompt = fields.text_or_messages(fields.need(row, "prompt"), "prompt")
    completion = fields.text_or_messages(fields.need(row, "completion"), "completion")
    fields.same_form(prompt, completion, "completion")
    fields.check_prompt(prompt)
    fields.check_completion(completion, "completion")
    return prompt, completion


def parse_messages(row: dict, place: str, notes: Counter) -> Demonstration:
    """One whole conversation."""
    turns = fields.messages(fields.need(row, "messages"), "messages")
    return _demonstration(turns, _columns(row, "messages"), place, notes)


def parse_sharegpt(row: dict, place: str, notes: Counter) -> Demonstration:
    """ShareGPT and SlimOrca: a conversation whose turns have `from` and `value`."""
    turns = fields.messages(fields.need(row, "conversations"), "conversations", role_key="from", content_key="value")
    if row.get("system"):
        turns = [{"role": "system", "content": fields.text(row["system"], "system")}, *turns]
    return _demonstration(turns, _columns(row, "conversations", "system"), place, notes)


def parse_alpaca(row: dict, place: str, notes: Counter) -> Demonstration:
    """Stanford Alpaca: instruction, perhaps an input below it, and the output."""
    parts = [fields.text(fields.need(row, "instruction"), "instruction")]
    if row.get("input") is not None:
        parts.append(fields.text(row["input"], "input"))
    question = "\n".join(part for part in parts if part.strip())
    answer = fields.text(fields.need(row, "output"), "output")
    if not question:
        raise ContentFault("no prompt before the answer")
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    if row.get("system"):
        turns.insert(0, {"role": "system", "content": fields.text(row["system"], "system")})
    columns = _columns(row, "instruction", "input", "output", "system")
    return _demonstration(turns, columns, place, notes)


def _demonstration(turns: Messages, columns: dict, place: str, notes: Counter) -> Demonstration:
    """Split a conversation at its first answer, and leave out what follows its last one."""
    answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not answers:
        raise ContentFault("no assistant turn")
    first, last = answers[0], answers[-1]
    notes[AFTER_THE_ANSWER] += last + 1 < len(turns)
    prompt, completion = turns[:first], turns[first : last + 1]
    fields.check_prompt(prompt)
    fields.check_completion(completion, "messages")
    return Demonstration(prompt, completion, columns, place)


def parse_prompt(row: dict, place: str, notes: Counter) -> Prompt:
    """TRL's prompt-only rows; every other field goes to the reward functions."""
    prompt = fields.text_or_messages(fields.need(row, "prompt"), "prompt")
    fields.check_prompt(prompt)
    return Prompt(prompt, _columns(row, "prompt"), place)


def _columns(row: dict, *used: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in used}


# The order decides: the first recogniser that agrees names the row's format.
FORMATS: dict[str, Format] = {
    "hh": Format(
        "chosen, rejected: transcripts with '\\n\\nHuman:' and '\\n\\nAssistant:'",
        Comparison,
        lambda row: "prompt" not in row and any(map(hh.is_transcript, _pair(row))),
        parse_hh,
    ),
    "preference": Format(
        "chosen, rejected [, prompt] [, margin]: strings or messages",
        Comparison,
        lambda row: "chosen" in row or "rejected" in row,
        parse_preference,
    ),
    "ranking": Format(
        "prompt; completions: list of strings or of messages; scores (higher is better) or ranks (1 is best): numbers",
        Ranking,
        lambda row: (
            isinstance(row.get("completions"), list) and "prompt" in row and ("scores" in row or "ranks" in row)
        ),
        parse_ranking,
    ),
    "nectar": Format(
        "prompt: transcript as in hh; answers: list of {answer, rank} (1 is best)",
        Ranking,
        lambda row: "prompt" in row and any(isinstance(a, dict) and "rank" in a for a in _list(row, "answers")),
        parse_nectar,
    ),
    "ultrafeedback": Format(
        "instruction; completions: list of {response, overall_score}",
        Ranking,
        lambda row: "instruction" in row and isinstance(row.get("completions"), list),
        parse_ultrafeedback,
    ),
    "unpaired": Format(
        "prompt, completion: strings or messages; label: true or false",
        Feedback,
        lambda row: "completion" in row and isinstance(row.get("label"), bool),
        parse_unpaired,
    ),
    "prompt_completion": Format(
        "prompt, completion: strings or messages",
        Demonstration,
        lambda row: "completion" in row,
        parse_prompt_completion,
    ),
    "messages": Format(
        "messages: list of {role, content}",
        Demonstration,
        lambda row: "messages" in row,
        parse_messages,
    ),
    "sharegpt": Format(
        "conversations: list of {from, value} (ShareGPT, SlimOrca)",
        Demonstration,
        lambda row: "conversations" in row,
        parse_sharegpt,
    ),
    "alpaca": Format(
        "instruction, output [, input] [, system]: strings",
        Demonstration,
        lambda row: "instruction" in row,
        parse_alpaca,
    ),
    "prompt": Format(
        "prompt: string or messages, and any other columns",
        Prompt,
        lambda row: "prompt" in row,
        parse_prompt,
    ),
}


def _pair(row: dict) -> tuple[Any, Any]:
    return row.get("chosen"), row.get("rejected")


def _list(row: dict, key: str) -> list:
    return row[key] if isinstance(row.get(key), list) else []

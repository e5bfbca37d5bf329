"""From a record to its token rows: what each kind of rows has for columns, and how they are filled."""

import json
from typing import Any

import pyarrow as pa

from easyrlhf.data.chat_template import arguments_for
from easyrlhf.data.dropped import note_dropped
from easyrlhf.data.records import Comparison, Demonstration, Feedback, Prompt, Ranking, Record
from easyrlhf.data.render import Renderer

SOURCE = "source"  # column with the file of a row, which is no part of its content
PLACE = "place"  # column with its file and line, which is none either
IDS, MASK = pa.list_(pa.int32()), pa.list_(pa.int8())
SCHEMAS: dict[str, pa.Schema] = {
    "demonstration": pa.schema({"input_ids": IDS, "loss_mask": MASK, "length": pa.int32()}),
    "comparison": pa.schema(
        {
            "prompt_ids": IDS,
            "chosen_ids": IDS,
            "rejected_ids": IDS,
            "margin": pa.float64(),
            "weight": pa.float64(),
            "chosen_probability": pa.float64(),
            "length": pa.int32(),
            SOURCE: pa.string(),
        }
    ),
    "ranking": pa.schema(
        {
            "prompt_ids": IDS,
            "completions_ids": pa.list_(IDS),
            "scores": pa.list_(pa.float64()),
            "length": pa.int32(),
        }
    ),
    "feedback": pa.schema({"prompt_ids": IDS, "completion_ids": IDS, "label": pa.bool_(), "length": pa.int32()}),
    "prompt": pa.schema(
        {
            "prompt_ids": IDS,
            "prompt": pa.string(),
            "columns": pa.string(),
            "length": pa.int32(),
            PLACE: pa.string(),
        }
    ),
}


def _encode_demonstration(record: Demonstration, renderer: Renderer) -> list[dict[str, Any]]:
    arguments = _arguments(record, renderer, [record.completion])
    examples = renderer.examples(record.prompt, record.completion, arguments)
    return [{"input_ids": ids, "loss_mask": mask, "length": len(ids)} for ids, mask in examples]


def _encode_comparison(record: Comparison, renderer: Renderer) -> list[dict[str, Any]]:
    answers = [record.chosen, record.rejected]
    arguments = _arguments(record, renderer, answers)
    prompt, (chosen, rejected) = renderer.answers(record.prompt, answers, arguments)
    row = {
        "prompt_ids": prompt,
        "chosen_ids": chosen,
        "rejected_ids": rejected,
        "margin": 0.0 if record.margin is None else record.margin,
        "weight": record.weight,
        "chosen_probability": 1.0 if record.chosen_probability is None else record.chosen_probability,
        "length": len(prompt) + max(len(chosen), len(rejected)),
    }
    return [row]


def _encode_ranking(record: Ranking, renderer: Renderer) -> list[dict[str, Any]]:
    arguments = _arguments(record, renderer, record.completions)
    prompt, completions = renderer.answers(record.prompt, record.completions, arguments)
    row = {
        "prompt_ids": prompt,
        "completions_ids": completions,
        "scores": record.scores,
        "length": len(prompt) + max(map(len, completions)),
    }
    return [row]


def _encode_feedback(record: Feedback, renderer: Renderer) -> list[dict[str, Any]]:
    arguments = _arguments(record, renderer, [record.completion])
    prompt, [completion] = renderer.answers(record.prompt, [record.completion], arguments)
    row = {
        "prompt_ids": prompt,
        "completion_ids": completion,
        "label": record.label,
        "length": len(prompt) + len(completion),
    }
    return [row]


def _encode_prompt(record: Prompt, renderer: Renderer) -> list[dict[str, Any]]:
    ids = renderer.prompt_ids(record.prompt, _arguments(record, renderer, [[]]))
    row = {
        "prompt_ids": ids,
        "prompt": json.dumps(record.prompt),
        "columns": json.dumps(record.columns, default=str),
        "length": len(ids),
    }
    return [row]


def _arguments(record: Record, renderer: Renderer, answers: list) -> dict[str, Any] | None:
    """What the record tells the chat template; what the template drops of its conversations is noted."""
    arguments = arguments_for(record.prompt, record.columns)
    if arguments is not None:
        note_dropped(renderer, [record.prompt + answer for answer in answers], arguments)
    return arguments


# kind → (record, renderer) → its token rows: one, but for demonstrations whose answers are learned apart. They raise
# InputError where the template refuses, ContentFault where there is nothing to learn.
ENCODERS = {
    "demonstration": _encode_demonstration,
    "comparison": _encode_comparison,
    "ranking": _encode_ranking,
    "feedback": _encode_feedback,
    "prompt": _encode_prompt,
}


def lengths_of(row: dict[str, Any]) -> dict[str, int]:
    """Tokens per column, `length` first; of several completions those of the longest."""
    ids = {key: value for key, value in row.items() if key.endswith("_ids")}
    if "completions_ids" in ids:
        ids["completions_ids"] = max(ids["completions_ids"], key=len)
    return {"length": row["length"]} | {key: len(value) for key, value in ids.items()}

"""The kinds of records: which stage learns from which, and what one becomes where another is wanted."""

from collections.abc import Callable

from easyrlhf.data.records import Comparison, Demonstration, Feedback, Prompt, Ranking, Record
from easyrlhf.stage_table import STAGES

KINDS: dict[str, type] = {
    "demonstration": Demonstration,
    "comparison": Comparison,
    "ranking": Ranking,
    "feedback": Feedback,
    "prompt": Prompt,
}
# stage → the kind of rows that it learns from
STAGE_KINDS = {name: stage.rows for name, stage in STAGES.items()}
READ_BY: dict[type, str] = {
    Demonstration: "sft_train",
    Comparison: "rm_train and dpo_train",
    Ranking: "rrhf_train",
    Feedback: "kto_train",
    Prompt: "ppo_train",
}
# What a record of another kind becomes; every record also yields its prompt.
CONVERSIONS: dict[tuple[type, str], Callable[[Record], list[Record]]] = {
    (Comparison, "demonstration"): lambda record: [record.as_demonstration()],
    (Comparison, "ranking"): lambda record: [record.as_ranking()],
    (Comparison, "feedback"): lambda record: record.as_feedbacks(),
    (Ranking, "comparison"): lambda record: record.as_comparisons(),
}
REASONS: dict[tuple[type, str], str] = {
    (Ranking, "feedback"): "a ranking does not say which answers are liked: give each answer a row with its label",
}


def as_kind(record: Record, kind: str) -> list[Record]:
    """The record as records of the kind that is wanted; for records that read_records yields for this kind.

    Of a tie there is none where one answer must be the better one.
    """
    if kind == "prompt":
        return [record.as_prompt()]
    if is_useless_tie(record, kind):
        return []
    convert = CONVERSIONS.get((type(record), kind))
    return convert(record) if convert else [record]


def is_useless_tie(record: Record, kind: str | None) -> bool:
    """Whether a record is a comparison without a winner, and the kind that is wanted asks for one."""
    return isinstance(record, Comparison) and record.is_tie and (Comparison, kind) in CONVERSIONS


def loses_sureness(record: Record, kind: str | None) -> bool:
    """Whether a record says how surely its chosen answer is the better one, which the kind that is wanted cannot."""
    soft = isinstance(record, Comparison) and record.chosen_probability not in (None, 1.0)
    return soft and (Comparison, kind) in CONVERSIONS


def plural(record: type) -> str:
    """What several records of this kind are called, for messages."""
    return record.__name__.lower() + "s"

"""The table of `easyrlhf data check`: what each check says, how severe it is, and what to do; docs/checking_data.md.

These checks count rows, where those of report/verdict.py measure a number: severity follows from the share of rows, may
be milder, and has the names of messages (error, warning, note), which `check_data` gives to Python too.
"""

from dataclasses import dataclass

from easyrlhf.data.lengths import TOLERATED as OVER_LENGTH_TOLERATED

MILDER = {"error": "warning", "warning": "note", "note": "note"}


@dataclass(frozen=True)
class RowCheck:
    """One row of the table.

    says       what was found, after its number: "3 rows that are not UTF-8"
    severity   error, warning or note, where more than the threshold was found; one milder below it
    threshold  share of the rows
    remedy     what to do
    stops      one such row stops a stage, unless it is told --on_bad_row skip: then the finding is a warning
    """

    says: str
    severity: str
    threshold: float
    remedy: str
    stops: bool = False


CHECKS: dict[str, RowCheck] = {
    "no_row": RowCheck("no usable row", "error", 0, "Look at the other findings: nothing can be learned from this."),
    "unreadable_file": RowCheck(
        "files cannot be read to their end", "error", 0, "Correct or fetch the file; nothing after that place was read."
    ),
    "not_utf8": RowCheck("rows are not UTF-8", "error", 0, "Save the file as UTF-8.", stops=True),
    "not_json": RowCheck("rows are not JSON", "error", 0, "Write one whole JSON object a line.", stops=True),
    "half_characters": RowCheck(
        "rows hold half a surrogate pair", "error", 0, "Remove it: a text was cut inside an emoji.", stops=True
    ),
    "mixed_formats": RowCheck(
        "rows are in another format than the first ones", "error", 0, "Split the file by format.", stops=True
    ),
    "wrong_structure": RowCheck(
        "rows lack a key or have a value of a wrong type",
        "error",
        0,
        "Correct them, or let the stage drop them with --on_bad_row skip.",
        stops=True,
    ),
    "not_renderable": RowCheck(
        "rows are refused by the chat template",
        "error",
        0,
        "Give another with --chat_template, or change the roles of these rows.",
        stops=True,
    ),
    "dropped_for_content": RowCheck(
        "rows of a file will be dropped for what they say, more than a stage tolerates",
        "error",
        0,
        "Correct them, or let the stage drop them with --on_bad_row skip.",
        stops=True,
    ),
    "empty_answer": RowCheck("rows have no answer, or an empty one", "warning", 0, "They are dropped; remove them."),
    "empty_prompt": RowCheck("rows have no prompt", "warning", 0, "They are dropped; remove them."),
    "nothing_to_compare": RowCheck(
        "rows have equal answers, or equal scores", "warning", 0, "They are dropped: nothing can be learned from them."
    ),
    "prompts_differ": RowCheck(
        "pairs answer different prompts",
        "warning",
        0,
        "They are dropped; pair answers to the same prompt.",
    ),
    "other_fault": RowCheck("rows are dropped for what they say", "warning", 0, "Look at the places."),
    "left_out": RowCheck("rows are left out by --transform", "note", 0, "As it was told to."),
    "histories_differ": RowCheck(
        "pairs differ before their last answer",
        "warning",
        0.01,
        "Their answers begin where they part, and hold several turns; end the shared history there.",
    ),
    "over_length": RowCheck(
        "rows are too long",
        "error",
        OVER_LENGTH_TOLERATED,
        "Raise --max_length and --max_prompt_length, or let the stage cut prompts with --overlength truncate.",
    ),
    "empty_turn": RowCheck("rows hold an empty turn", "warning", 0, "Remove the turn, or the row."),
    "control_characters": RowCheck(
        "rows hold control characters", "warning", 0, "Remove them; they are left over from a conversion."
    ),
    "replacement_characters": RowCheck(
        "rows hold the character �",
        "warning",
        0,
        "The text was decoded with a wrong charset; make the file from its source again.",
    ),
    "control_tokens": RowCheck(
        "rows hold the text of a control token, such as <|im_end|>",
        "warning",
        0,
        "A template was applied before: give messages, and let the stage apply its own.",
    ),
    "duplicates": RowCheck(
        "rows repeat an earlier row", "error", 0.5, "Remove them, or train for more epochs instead."
    ),
    "repeated_prompts": RowCheck(
        "prompts repeat an earlier one", "note", 0, "They are sampled from that much more often."
    ),
    "contradictions": RowCheck(
        "rows judge the same answers the other way round",
        "error",
        0.05,
        "Keep one of each two, or take both out: the labels are noise.",
    ),
    "leaked_rows": RowCheck(
        "rows are training rows too", "error", 0, "Remove them from the training data, or the evaluation flatters."
    ),
    "leaked_prompts": RowCheck(
        "rows have a prompt of the training data",
        "error",
        0.1,
        "Split by prompts (easyrlhf data split), not by rows: a model that has learned them looks better than it is.",
    ),
    "ties": RowCheck(
        "pairs are ties (chosen_probability 0.5)",
        "note",
        0,
        "rm_train and the methods on pairs learn from them that neither is better; sft_train, kto_train and rrhf_train "
        "leave them out.",
    ),
    "soft_labels": RowCheck(
        "pairs say how surely chosen is better (chosen_probability)",
        "note",
        0,
        "rm_train and the methods on pairs weigh both orders by it; sft_train, kto_train and rrhf_train take "
        "the winner.",
    ),
    "one_label": RowCheck("answers have the same label", "error", 0, "Add answers with the other label."),
    "label_balance": RowCheck("answers are liked", "warning", 0, "Give kto_train the weights that are named here."),
    "length_bias": RowCheck(
        "pairs prefer the answer of one length",
        "warning",
        0.75,
        "A model can win by counting words: balance the lengths of the pairs.",
    ),
    "double_bos": RowCheck(
        "rows hold more than one BOS token", "error", 0, "Remove the BOS from the texts: the tokenizer adds one."
    ),
    "own_bos": RowCheck(
        "prompts bring their own BOS", "note", 0, "It is read as the one that the tokenizer adds; none is doubled."
    ),
    "missing_eos": RowCheck(
        "rows have an answer without an end-of-turn token",
        "error",
        0,
        "The model would not learn to stop there: give a template that ends every answer, such as chatml.",
    ),
    "cut_at_eos": RowCheck(
        "answers go on after their end-of-turn token",
        "error",
        0.01,
        "What follows is never learned: one answer a row, or messages.",
    ),
    "answers_apart": RowCheck(
        "rows become several examples, one an answer",
        "note",
        0,
        "The chat template rewrites earlier turns; --learn last learns the last answer alone.",
    ),
    "field_dropped": RowCheck(
        "rows hold what the chat template drops: thoughts, tool calls, tools, variables, turns of a role",
        "warning",
        0,
        "They read the same without: give a --chat_template that writes them.",
    ),
    "template_without_end": RowCheck(
        "the chat template writes no end-of-turn token",
        "warning",
        0,
        "The tokenizer's EOS is put behind the last answer of a row; better give a template that ends every answer.",
    ),
    "template_with_date": RowCheck(
        "the chat template writes the date",
        "warning",
        0,
        "The same row differs tomorrow: give a template without it.",
    ),
    "template_with_two_bos": RowCheck(
        "the chat template writes two BOS tokens", "warning", 0, "One is removed; correct the template."
    ),
}

"""The row formats: one table of name -> who recognises a row, who turns it into a record."""

import difflib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from easyrlhf.data import comparisons, conversations, hh, nemo_gym, rankings
from easyrlhf.data.axolotl import SPELLINGS
from easyrlhf.data.fields import is_label, may_ask
from easyrlhf.data.messages import role_of
from easyrlhf.data.records import Comparison, Demonstration, Feedback, Prompt, Ranking, Record
from easyrlhf.errors import InputError

FORCED = "only with --format"


@dataclass(frozen=True)
class Format:
    """One way to write a row.

    keys       what a row holds, for messages and help
    record     the kind of record it becomes
    recognise  row -> whether it is written this way (looking at keys first); None for a layout that cannot be told
               apart from another one, which --format must name
    parse      (row, notes) -> record; raises StructuralFault or ContentFault
    asks       the keys that are wholly in the prompt; others are passed on where prompts are read
    ask        like parse, where prompts are read and the row may end before the answer
    whole      every other key is for a server, which gets the row as it is: none says anything of the prompt
    """

    keys: str
    record: type
    recognise: Callable[[dict], bool] | None
    parse: Callable[[dict, Counter], Record]
    asks: tuple[str, ...] = ()
    ask: Callable[[dict, Counter], Record] | None = None
    whole: bool = False


def require_format(name: str, kind: str | None = None) -> str | None:
    """Our name of a format that was named in our words or in axolotl's; None where it is to be recognised.

    kind  of records that are wanted: axolotl calls rows for KTO (`feedback`) by the names of its comparisons
    Raises InputError, with the nearest name, for one that is not known.
    """
    if name in FORMATS:
        return name
    if name in SPELLINGS:
        paired, unpaired = SPELLINGS[name]
        return unpaired if kind == "feedback" else paired
    near = difflib.get_close_matches(name, [*FORMATS, *SPELLINGS], 1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise InputError(f"unknown format '{name}'; use one of {', '.join(FORMATS)}{hint}")


def format_table() -> str:
    """All formats with their keys, one a line, for messages."""
    forced = {True: "", False: f" ({FORCED} NAME)"}
    return "\n".join(f"  {name}: {form.keys}{forced[form.recognise is not None]}" for name, form in FORMATS.items())


def _texts(row: dict) -> bool:
    """Whether a row compares two answers that are single texts, and has no `prompt`."""
    pair = [row[key] for key in ("chosen", "rejected") if key in row]
    return bool(pair) and "prompt" not in row and not any(isinstance(answer, list | dict) for answer in pair)


def _rejects(row: dict) -> bool:
    return "rejected_response" in row or "rejected_messages" in row


def _liked(row: dict, key: str, *answers: str) -> bool:
    """Whether a row has a single answer with a label, to the question in this key."""
    answered = any(answer in row for answer in answers or ("completion",))
    return key in row and "prompt" not in row and answered and _labelled(row)


def _labelled(row: dict) -> bool:
    """Whether a row says if its answer was liked; LLaMA-Factory's key means nothing else, whatever its value."""
    return "kto_tag" in row or is_label(row.get("label"))


def _unanswered(row: dict) -> bool:
    """Whether a row's messages are a conversation, of roles that are known, in which the assistant has not spoken."""
    roles = {role_of(turn) for turn in _list(row, comparisons.conversation_key(row))}
    return bool(roles) and not roles & {"assistant", None}


def _list(row: dict, key: str) -> list:
    return row[key] if isinstance(row.get(key), list) else []


# The order decides: the first recogniser that agrees names the row's format.
CONVERSATION = ("messages", "conversations")
WHOLE = ("messages", "sharegpt", "messages_prompt")  # formats whose rows may stand in one file: all are read alike
FORMATS: dict[str, Format] = {
    "nemo_gym": Format(
        "responses_create_params: {input: string or messages [, tools]} [, agent_ref: {name}], and the verifier's keys",
        Prompt,
        lambda row: row.get(nemo_gym.REQUEST) is not None,
        nemo_gym.parse_nemo_gym,
        asks=(nemo_gym.REQUEST,),
        whole=True,
    ),
    "hh": Format(
        "chosen, rejected: transcripts with '\\n\\nHuman:' and '\\n\\nAssistant:' [, margin or chosen_probability]",
        Comparison,
        lambda row: "prompt" not in row and any(hh.is_transcript(row.get(key)) for key in ("chosen", "rejected")),
        comparisons.parse_hh,
    ),
    "ultra": Format(
        "prompt: string; chosen, rejected: whole conversations [, system] [, margin or chosen_probability]",
        Comparison,
        lambda row: isinstance(row.get("prompt"), str) and bool(_list(row, "chosen") and _list(row, "rejected")),
        comparisons.parse_ultra,
        asks=("prompt",),
    ),
    "messages_pairs": Format(
        "messages: list of {role, content} or {from, value}, up to the answer; chosen, rejected: string or one turn "
        "[, margin or chosen_probability]",
        Comparison,
        lambda row: (
            "prompt" not in row
            and comparisons.has_conversation(row)
            and any(isinstance(row.get(key), str | dict) for key in ("chosen", "rejected"))
        ),
        comparisons.parse_messages_pairs,
        asks=CONVERSATION,
    ),
    "swift": Format(
        "messages: list of {role, content} with the chosen answer, or query, response [, history]; rejected_response: "
        "string or messages, or rejected_messages [, margin or chosen_probability]",
        Comparison,
        lambda row: (comparisons.has_conversation(row) or "query" in row) and _rejects(row),
        comparisons.parse_swift,
        asks=(*CONVERSATION, "query"),
        ask=conversations.parse_conversation_prompt,
    ),
    "intel": Format(
        "question, chosen, rejected [, system] [, margin or chosen_probability]: strings",
        Comparison,
        lambda row: _texts(row) and "question" in row,
        comparisons.asking("question"),
        asks=("question",),
    ),
    "argilla": Format(
        "instruction [, input] [, system]; chosen and rejected, or chosen_response and rejected_response: strings "
        "[, margin or chosen_probability]",
        Comparison,
        lambda row: (_texts(row) and "instruction" in row) or "chosen_response" in row or "rejected_response" in row,
        comparisons.parse_argilla,
        asks=("instruction", "input", "prompt", "question", "query"),
    ),
    "icr": Format(
        "input, chosen, rejected [, system] [, margin or chosen_probability]: strings",
        Comparison,
        lambda row: _texts(row) and "input" in row,
        comparisons.asking("input"),
        asks=("input",),
    ),
    "preference": Format(
        "chosen, rejected [, prompt] [, margin or chosen_probability]: strings or messages",
        Comparison,
        lambda row: "chosen" in row or "rejected" in row,
        comparisons.parse_preference,
        asks=("prompt",),
    ),
    "prompt_pairs": Format(
        "prompt, chosen, rejected [, system] [, margin or chosen_probability]: strings that become messages",
        Comparison,
        None,
        comparisons.asking("prompt"),
        asks=("prompt",),
    ),
    "ranking": Format(
        "prompt; completions: list of strings or of messages; scores (higher is better) or ranks (1 is best): numbers",
        Ranking,
        lambda row: (
            isinstance(row.get("completions"), list) and "prompt" in row and ("scores" in row or "ranks" in row)
        ),
        rankings.parse_ranking,
        asks=("prompt",),
    ),
    "nectar": Format(
        "prompt: a question, or a transcript as in hh; answers: list of {answer, rank} (1 is best)",
        Ranking,
        lambda row: "prompt" in row and any(isinstance(a, dict) and "rank" in a for a in _list(row, "answers")),
        rankings.parse_nectar,
        asks=("prompt",),
    ),
    "ultrafeedback": Format(
        "instruction; completions: list of {response, overall_score}",
        Ranking,
        lambda row: "instruction" in row and isinstance(row.get("completions"), list),
        rankings.parse_ultrafeedback,
        asks=("instruction",),
    ),
    "argilla_kto": Format(
        "instruction [, input] [, system]; completion, or output: strings; label: true or false",
        Feedback,
        lambda row: _liked(row, "instruction", "completion", "output"),
        conversations.parse_argilla_kto,
        asks=("instruction", "input"),
    ),
    "intel_kto": Format(
        "question, completion [, system]: strings; label: true or false",
        Feedback,
        lambda row: _liked(row, "question"),
        conversations.answer_to("question"),
        asks=("question",),
    ),
    "argilla_chat_kto": Format(
        "completion: a whole conversation; label: true or false",
        Feedback,
        lambda row: _liked(row, "completion") and isinstance(row["completion"], list),
        conversations.parse_labelled_chat,
    ),
    "unpaired": Format(
        "prompt, completion: strings or messages; label: true or false",
        Feedback,
        lambda row: "completion" in row and _labelled(row),
        conversations.parse_unpaired,
        asks=("prompt",),
    ),
    "prompt_pairs_kto": Format(
        "prompt, completion [, system]: strings that become messages; label: true or false",
        Feedback,
        None,
        conversations.answer_to("prompt"),
        asks=("prompt",),
    ),
    "swift_kto": Format(
        "messages, or conversations: list of turns; or query, response [, history]; label: true or false",
        Feedback,
        lambda row: (comparisons.has_conversation(row) or ("query" in row and "response" in row)) and _labelled(row),
        conversations.parse_swift_kto,
        asks=(*CONVERSATION, "query"),
        ask=conversations.parse_conversation_prompt,
    ),
    "prompt_completion": Format(
        "prompt, completion: strings or messages",
        Demonstration,
        lambda row: "completion" in row,
        conversations.parse_prompt_completion,
        asks=("prompt",),
    ),
    "messages_prompt": Format(
        "messages: list of {role, content} that ends before the answer (recognised when the assistant never speaks)",
        Prompt,
        _unanswered,
        conversations.parse_messages_prompt,
        asks=CONVERSATION,
    ),
    "messages": Format(
        "messages: list of {role, content}",
        Demonstration,
        lambda row: "messages" in row,
        conversations.parse_conversation,
        asks=CONVERSATION,
        ask=conversations.parse_conversation_prompt,
    ),
    "sharegpt": Format(
        "conversations: list of {from, value} (ShareGPT, SlimOrca)",
        Demonstration,
        lambda row: "conversations" in row,
        conversations.parse_conversation,
        asks=CONVERSATION,
        ask=conversations.parse_conversation_prompt,
    ),
    "query_response": Format(
        "query, response [, system]: strings [, history: list of [question, answer]]",
        Demonstration,
        lambda row: "query" in row and "response" in row,
        conversations.parse_query_response,
        asks=("query",),
    ),
    "alpaca": Format(
        "instruction, output [, input] [, system] [, history]: strings",
        Demonstration,
        lambda row: "instruction" in row,
        conversations.parse_alpaca,
        asks=("instruction", "input"),
    ),
    "prompt": Format(
        "prompt: string or messages, and any other columns",
        Prompt,
        lambda row: "prompt" in row,
        conversations.parse_prompt,
        asks=("prompt",),
    ),
    "text": Format(
        "text: a string, all of which is learned",
        Demonstration,
        lambda row: "text" in row and not may_ask(row, "text") and role_of(row) is None,
        conversations.parse_text,
    ),
}

"""Transcripts of Anthropic's hh-rlhf (Bai et al. 2022) as messages: where to cut, what to join."""

import re
from collections import Counter

from easyrlhf.data.records import Messages
from easyrlhf.data.row_errors import ContentFault, StructuralFault

MARKER = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}
JOINED = "rows with consecutive turns of one role joined"
DIFFERENT = "rows whose two transcripts differ before the last answer"


def is_transcript(text: str) -> bool:
    """Whether a text reads as an hh transcript: it has a marker at the start of a paragraph."""
    return isinstance(text, str) and MARKER.search(text) is not None


def split_pair(chosen: str, rejected: str, notes: Counter) -> tuple[Messages, Messages, Messages]:
    """Prompt, chosen and rejected messages of two transcripts.

    The cut is at the last assistant turn that both have at the same position after an equal
    history. Where the histories differ this is the last assistant marker in their common part,
    and a side may then go on for several turns. `notes` counts such rows, and joined turns.
    """
    turns = {"chosen": read_turns(chosen, "chosen"), "rejected": read_turns(rejected, "rejected")}
    joined = {side: join_turns(side_turns) for side, side_turns in turns.items()}
    notes[DIFFERENT] += turns["chosen"][:-1] != turns["rejected"][:-1]
    notes[JOINED] += any(len(joined[side]) < len(turns[side]) for side in turns)
    return split_messages(joined["chosen"], joined["rejected"])


def read_turns(transcript: str, key: str) -> Messages:
    """The turns of a transcript, without the space around each."""
    opens = transcript.startswith(("Human:", "Assistant:"))  # stripped of the empty lines before the first marker
    head, *rest = MARKER.split("\n\n" * opens + transcript)
    if not rest:
        raise StructuralFault(
            f"key '{key}': expected a transcript with '\\n\\nHuman:' and '\\n\\nAssistant:', found {transcript[:40]!r}"
        )
    if head.strip():
        raise StructuralFault(f"key '{key}': text before the first '\\n\\nHuman:' marker: {head.strip()[:40]!r}")
    return [{"role": ROLES[name], "content": text.strip()} for name, text in zip(rest[::2], rest[1::2], strict=True)]


def join_turns(turns: Messages) -> Messages:
    """Consecutive turns of one role become one, as paragraphs."""
    joined: Messages = []
    for turn in turns:
        if joined and joined[-1]["role"] == turn["role"]:
            parts = [joined[-1]["content"], turn["content"]]
            turn = {"role": turn["role"], "content": "\n\n".join(filter(None, parts))}
            joined[-1] = turn
        else:
            joined.append(turn)
    return joined


def split_messages(chosen: Messages, rejected: Messages) -> tuple[Messages, Messages, Messages]:
    """Cut two conversations at the last assistant turn that follows an equal history in both.

    Raises ContentFault when there is none: no assistant speaks, or the two begin with different prompts.
    """
    shared = 0
    for ours, theirs in zip(chosen, rejected, strict=False):
        if ours != theirs:
            break
        shared += 1
    cut = min(shared, len(chosen) - 1, len(rejected) - 1)
    while cut >= 0 and not chosen[cut]["role"] == rejected[cut]["role"] == "assistant":
        cut -= 1
    if cut < 0:
        speaks = all(any(turn["role"] == "assistant" for turn in side) for side in (chosen, rejected))
        raise ContentFault("chosen and rejected answer different prompts" if speaks else "no assistant turn")
    return chosen[:cut], chosen[cut:], rejected[cut:]

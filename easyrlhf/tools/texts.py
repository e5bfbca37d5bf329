"""Texts that `easyrlhf generate` is asked on the command line, and their answers printed for a reader."""

import hashlib
import json
import sys
from typing import Any

from easyrlhf.config import GenerateConfig
from easyrlhf.data.records import Messages
from easyrlhf.data.render import Renderer
from easyrlhf.data.standard_input import read_text
from easyrlhf.errors import InputError
from easyrlhf.report.transcript import transcript
from easyrlhf.tools.output import Output, Printed, printable
from easyrlhf.tools.policy import room_for_prompt
from easyrlhf.tools.scoring import why_no_score

PARTS = ("prompt", "completion")


def ask(config: GenerateConfig, renderer: Renderer, output: Output | Printed) -> list[dict[str, Any]]:
    """The texts of `prompt` as rows: a user turn each, where there is a template. Raises InputError for a long one."""
    texts = [read_text() if text == "-" else text for text in config.texts]
    if empty := [number for number, text in enumerate(texts, 1) if not text.strip()]:
        raise InputError(f"--prompt: text {empty[0]} says nothing")
    prompts: list[Messages | str] = texts
    if renderer.tokenizer.chat_template:
        prompts = [[{"role": "user", "content": text}] for text in texts]
    else:
        print(f"note: {config.model} has no chat template, so it goes on with the text as it is", file=sys.stderr)
    room, ids = room_for_prompt(config), [renderer.prompt_ids(prompt) for prompt in prompts]
    for number, one in enumerate(ids, 1):
        if room is not None and len(one) > room:
            raise InputError(
                f"--prompt: text {number} has {why_no_score(one, room)}, which is the room that --max_new_tokens "
                f"{config.max_new_tokens} leaves"
            )
    output.begin(hashlib.sha256(json.dumps(prompts).encode()).hexdigest(), len(prompts))
    rows = zip(prompts, ids, strict=True)
    return [{"prompt": json.dumps(prompt), "columns": "{}", "prompt_ids": one} for prompt, one in rows]


def as_text(said: Messages | str) -> str:
    """A prompt as it was asked, or an answer; of an episode what both sides said."""
    if isinstance(said, str):
        return said
    return said[-1]["content"] if len(said) == 1 else transcript(said)


def print_answers(config: GenerateConfig, output: Printed, rows: list[dict[str, Any]]) -> None:
    """Print answers as text; with what they answer and their rewards above them, where there are several or a judge."""
    for row in rows:
        asked, answer = (as_text(row[part]) for part in PARTS)
        if len(config.texts) > 1 and not row["sample"]:
            output.print_line("> " + printable(asked).replace("\n", "\n> "))
        marks = [f"answer {row['sample'] + 1}"] if config.draws > 1 else []
        marks += [f"reward {row['reward']:+.4f}"] if row.get("reward") is not None else []
        if marks:
            output.print_line(f"[{', '.join(marks)}]")
        output.print_line(printable(answer) + "\n" * (len(config.texts) * config.draws > 1))

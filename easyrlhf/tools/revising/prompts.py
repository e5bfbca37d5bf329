"""The prompts that are answered and revised, read before any model is loaded."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from easyrlhf.config import ReviseConfig
from easyrlhf.data.chat_template import arguments_for, opens
from easyrlhf.data.ledger import OVER_LENGTH, Ledger
from easyrlhf.data.read_row import recognise
from easyrlhf.data.reader import RowSettings
from easyrlhf.data.records import Prompt
from easyrlhf.data.render import Renderer
from easyrlhf.errors import InputError
from easyrlhf.judges.constitution import Principle
from easyrlhf.report.console import say
from easyrlhf.tools.revising.chain import Revised, revised_row

READ_AS = {"demonstrations": "prompt_completion", "comparisons": "preference"}
OPEN_ANSWER = "the prompt ends with an assistant turn; expected a user turn"


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt, and its tokens where a model in this process answers it."""

    record: Prompt
    ids: list[int] | None


def read_prompts(
    config: ReviseConfig, renderer: Renderer | None, room: int | None, ledger: Ledger
) -> list[AskedPrompt]:
    """All prompts of the settings that fit. Raises InputError.

    renderer  of the model that answers first, which has room for so many tokens; None where a server answers
    """
    prompts = list(_usable(config, renderer, room, ledger))
    say(ledger.summary("").lines())
    if not prompts:
        raise InputError(f"--prompts {config.prompts}: no usable prompt; the dropped ones are in {ledger.bad_rows}")
    return prompts


def digest_of(prompts: list[AskedPrompt], constitution: list[Principle]) -> str:
    """SHA-256 of all that is read: prompts with their columns, and principles."""
    digest = hashlib.sha256(json.dumps([asdict(one) for one in constitution]).encode())
    for one in prompts:
        digest.update(json.dumps([one.record.prompt, one.record.columns], default=str).encode() + b"\n")
    return digest.hexdigest()


def _usable(config: ReviseConfig, renderer: Renderer | None, room: int | None, ledger: Ledger) -> Iterator[AskedPrompt]:
    settings = RowSettings.of(config)
    for source in settings.open(config.prompts):
        if source.weight != 1:
            raise InputError(f"{source.name}={source.weight:g}: every prompt is answered once; leave the weight out")
        for record, row in settings.records(source, "prompt", ledger):
            check_new_row(config, record)
            try:
                if opens(record.prompt):
                    raise InputError(OPEN_ANSWER)
                arguments = arguments_for(record.prompt, record.columns)
                ids = renderer.prompt_ids(record.prompt, arguments) if renderer else None
            except InputError as error:
                if config.on_bad_row == "stop":
                    raise InputError(f"{record.place}: {error}") from error
                ledger.drop("not renderable", record.place, row, str(error))
                continue
            if ids is not None and room is not None and len(ids) > room:
                ledger.drop(OVER_LENGTH, record.place, row)
                continue
            ledger.use([{} if ids is None else {"length": len(ids)}])
            yield AskedPrompt(record, ids)


def check_new_row(config: ReviseConfig, record: Prompt) -> None:
    """Raise InputError when a prompt's other columns would make the stages read the new row as something else."""
    found = recognise(revised_row(config.to, replace(record, prompt=""), Revised("a", [{"revision": "b"}])))
    if found != READ_AS[config.to]:
        raise InputError(
            f"{record.place}: with its columns ({', '.join(record.columns)}) the new row would be read as {found}, not "
            f"as {READ_AS[config.to]}; rename or remove them, as in --field {next(iter(record.columns))}="
        )

"""Last words of a run that fails: what happened, in the user's terms, what is safe, and how to go on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from easyrlhf.engine import world
from easyrlhf.engine.checkpoint import CHECKPOINTS, list_checkpoints
from easyrlhf.engine.faults import is_full_disk, is_out_of_memory
from easyrlhf.errors import EasyRLHFError, RunError

if TYPE_CHECKING:
    from easyrlhf.engine.run import Run


def further(error: RunError, text: str) -> RunError:
    """The error with one more line."""
    found = type(error)(f"{error}\n{text}")
    found.shown_by = error.shown_by
    return found


@contextmanager
def out_of_memory_explained(run: "Run") -> Iterator[None]:
    """Turn torch's error for a full memory into advice."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if isinstance(error, EasyRLHFError) or not is_out_of_memory(error):
            raise
        text = str(error)
        found = RunError(
            f"out of memory on {run.device}: {(text or 'MemoryError').splitlines()[0][:200]}\n"
            f"A forward pass had up to --micro_batch_tokens {run.micro_batch_tokens} tokens; try --micro_batch_tokens "
            f"{max(1, run.micro_batch_tokens // 2)}, which needs half the activations and gives the same result, then "
            "--gradient_checkpointing, --lora_r 16, or --deepspeed zero3 on several devices. easyrlhf fit "
            f"{run.config.stage} --model {run.config.model} says what fits"
        )
        found.shown_by = world.rank()
        raise found from error


@contextmanager
def full_disk_explained(run: "Run") -> Iterator[None]:
    """Turn what the system says of a disk that is full or has become read-only into a RunError that names the file."""
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        found = RunError(f"{error.filename or run.folder}: could not be written: {error.strerror}; make room there")
        found.shown_by = world.rank()
        raise found from error


def what_is_safe(config) -> str:
    """One sentence on what a failed run leaves behind and how to go on."""
    folder = Path(config.output_dir)
    try:
        newest = next(reversed(list_checkpoints(folder)), None)
    except OSError as error:  # a process without memory cannot even read a folder, and has to say what happened to it
        kept = f"what is in {folder / CHECKPOINTS}, which could not be listed: {error.strerror}"
        return f"Safe on disk: {kept}. {how_to_go_on(config)}"
    if newest:
        other = f"Other settings, such as a lower --learning_rate, need --resume {newest} and another --output_dir."
        return f"Safe on disk: {newest}. {how_to_go_on(config)} {other}"
    return (
        "No checkpoint had been written yet; the same command starts from the beginning. Other settings need another "
        "--output_dir, or --overwrite."
    )


def how_to_go_on(config) -> str:
    """The last sentence of a message about a run that did not finish."""
    return f"The same command{' without --overwrite' * config.overwrite} continues the run."

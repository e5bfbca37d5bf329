"""Last words of a run that fails: what happened, in the user's terms, what is safe, and how to go on."""

import itertools
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from easyrlhf.config import TrainConfig
from easyrlhf.engine import processes
from easyrlhf.engine.faults import is_out_of_memory
from easyrlhf.errors import EasyRLHFError, InputError, NotFinite, RunError
from easyrlhf.files import disk_reason, is_full_disk
from easyrlhf.run.checkpoint import list_checkpoints
from easyrlhf.run.differences import SETTINGS_FILE
from easyrlhf.run.manifest import CHECKPOINTS, read_stage

if TYPE_CHECKING:
    from easyrlhf.run.run import Run


def with_note(error: RunError, text: str) -> RunError:
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
        found.shown_by = processes.rank()
        raise found from error


@contextmanager
def full_disk_explained(run: "Run") -> Iterator[None]:
    """Turn what is said of a disk that is full or has become read-only into a RunError that names the file.

    An error of the system that names a file of the run is one of writing: what the run reads there, it has written.
    """
    try:
        yield
    except Exception as error:
        file = getattr(error, "filename", None)
        ours = isinstance(error, OSError) and file and run.folder.resolve() in Path(str(file)).resolve().parents
        if isinstance(error, EasyRLHFError) or not (is_full_disk(error) or (ours and not is_out_of_memory(error))):
            raise
        found = RunError(f"{file or run.folder}: could not be written: {disk_reason(error)}")
        found.shown_by = processes.rank()
        raise found from error


def what_is_safe(config: TrainConfig, error: RunError) -> str:
    """One sentence on what a run that failed by this error leaves behind and how to go on."""
    folder = Path(config.output_dir)
    try:
        found = list_checkpoints(folder)
    except OSError as second:  # a process without memory cannot even read a folder, and has to say what happened to it
        kept = f"what is in {folder / CHECKPOINTS}, which could not be listed: {second.strerror}"
        return f"Safe on disk: {kept}. {how_to_go_on(config)}"
    with suppress(InputError):
        if read_stage(folder).get("status") == "complete":
            again = f"easyrlhf report {shlex.quote(str(folder))}"
            return f"The model in {folder} is complete and safe; {again} writes its pages anew."
    if isinstance(error, NotFinite) and (folder / SETTINGS_FILE).exists():
        safe = f"Safe on disk: {', '.join(map(str, reversed(found)))}. " if found else ""
        return f"{safe}The same command would end the same way. A lower rate: {lower_rate(config, found)}"
    if found:
        newest = found[-1]
        other = f"Other settings, such as a lower --learning_rate, need --resume {newest} and another --output_dir."
        return f"Safe on disk: {newest}. {how_to_go_on(config)} {other}"
    return (
        "No checkpoint had been written yet; the same command starts from the beginning. Other settings need another "
        "--output_dir, or --overwrite."
    )


def lower_rate(config: TrainConfig, checkpoints: list[Path]) -> str:
    """The command that goes on from the newest of a run's checkpoints, or begins anew, with a tenth of its rate."""
    folder = Path(config.output_dir)
    words = [f"{config.stage}_train", "--config", str(folder / SETTINGS_FILE)]
    words += ["--resume", str(checkpoints[-1])] if checkpoints else []
    words += ["--output_dir", str(free_name(folder)), "--learning_rate", f"{config.learning_rate / 10:g}"]
    return shlex.join([*words, *["--no_overwrite"] * config.overwrite])


def free_name(folder: Path) -> Path:
    """A folder beside, of nearly the same name, that is not there yet."""
    return next(name for n in itertools.count(2) if not (name := folder.with_name(f"{folder.name}-{n}")).exists())


def how_to_go_on(config: TrainConfig) -> str:
    """The last sentence of a message about a run that did not finish."""
    return f"The same command{' without --overwrite' * config.overwrite} continues the run."

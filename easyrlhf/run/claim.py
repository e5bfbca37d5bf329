"""What an output folder is to a run: its own to make, to continue, complete, or another's."""

import os
import shutil
import tempfile
from contextlib import AbstractContextManager, ExitStack
from dataclasses import fields
from pathlib import Path

from easyrlhf.config import TrainConfig
from easyrlhf.config.base import MODEL
from easyrlhf.errors import InputError
from easyrlhf.files import hold_file, make_folder
from easyrlhf.paths import broken_link
from easyrlhf.run.differences import PARENTS, SETTINGS_FILE, differences
from easyrlhf.run.manifest import CHECKPOINTS, STAGE_FILE, read_stage

LOCK = ".lock"
BEFORE_THE_START = {"cache", LOCK, "bad_rows.jsonl", "logs", PARENTS}
OUR_FILES = (
    f"{STAGE_FILE} {SETTINGS_FILE} {CHECKPOINTS} metrics*.jsonl samples*.jsonl rollouts*.jsonl rm_eval.json .look-* "
    "doctor.json report.html README.md plots runs adapter value_model .final* config.json generation_config.json "
    "value_head.safetensors model*.safetensors model.safetensors.index.json tokenizer* special_tokens_map.json "
    "vocab.json merges.txt added_tokens.json chat_template.jinja"
).split()
NEW, UNFINISHED, COMPLETE = "new", "unfinished", "complete"
READ_FIRST = "complete, if its rows are these"


def entered(stack: ExitStack, config: TrainConfig) -> tuple[Path, str]:
    """The folder to work in, and what output_dir is to this run, as claim says; locked as long as the stack lasts.

    A dry run works in a temporary folder and leaves nothing behind, and so does a look at a complete run.
    """
    folder = Path(config.output_dir)
    if config.dry_run:
        check_output_folder(folder)
        if (folder / LOCK).exists():
            with locked(folder):
                pass
        found = claim_folder(config, folder) if folder.is_dir() else NEW
    else:
        make_folder(folder)
        stack.enter_context(locked(folder))
        found = claim_folder(config, folder)
    if config.dry_run or found == READ_FIRST:
        place = None if config.dry_run else folder  # that all machines of a run see
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".look-", dir=place))), found
    return folder, found


def check_output_folder(folder: Path) -> None:
    """Raise InputError, as make_folder would, where a folder cannot be made or written; makes nothing."""
    if broken := broken_link(folder):
        raise InputError(f"--output_dir {folder}: {broken}; give another folder")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        why = "File exists" if there == folder else "Not a directory"
        raise InputError(f"--output_dir {folder}: cannot be created ({why}); give another folder")
    if os.access(there, os.W_OK):
        return
    says = "is not writable" if there == folder else "cannot be created (Permission denied)"
    raise InputError(f"--output_dir {folder}: {says}; give another folder")


def locked(folder: Path) -> AbstractContextManager[None]:
    """Hold the folder for this process alone; the operating system lets go of it when the process ends."""
    taken = f"--output_dir {folder}: another run is working there; wait for it, or give another folder"
    return hold_file(folder / LOCK, taken)


def claim_folder(config: TrainConfig, folder: Path) -> str:
    """Decide what the folder is to this run: NEW, UNFINISHED, COMPLETE, or READ_FIRST.

    Raises InputError when it is taken.
    """
    for setting in (one for one in fields(config) if one.metadata.get("on_resume") == MODEL):
        model = config.value(setting.name)
        if model and Path(model).expanduser().resolve() == folder.resolve():
            raise InputError(
                f"--output_dir {folder}: is also --{setting.name}, which the run would write over; give another "
                "--output_dir"
            )
    if config.overwrite:  # what is there is deleted when training begins: bad input must not cost a finished run
        return NEW
    known = read_stage(folder)
    if not known:
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in BEFORE_THE_START)
        if foreign:
            raise InputError(
                f"--output_dir {folder}: holds files this stage did not write ({', '.join(foreign[:3])}); "
                "give another folder, or --overwrite to write beside them"
            )
        return NEW
    if known["stage"] != config.stage:
        raise InputError(
            f"--output_dir {folder}: holds {article(known)} run of {known['stage']}, and this is {config.stage}; "
            "give another folder, or --overwrite to start anew"
        )
    found = differences(folder, config)
    if others := [f"  {one}" for one in found if not one.is_undecided]:
        raise InputError(other_settings_lines(folder, known, others))
    if known["status"] != "complete":
        return UNFINISHED  # whose rows are compared when they have been read
    return READ_FIRST if found else COMPLETE


def other_settings_lines(folder: Path, known: dict, lines: list[str]) -> str:
    """What to say of a folder that holds a run of other settings: line by line what differs."""
    return "\n".join(
        [
            f"--output_dir {folder}: holds {article(known)} run of {known['stage']} with other settings:",
            *lines,
            "give another folder, the same settings to continue it, or --overwrite to start anew",
        ]
    )


def changed(folder: Path, known: dict, what: str, lines: list[str]) -> str:
    """What to say of a folder whose run began with other rows or tokens than the same settings give now."""
    return "\n".join(
        [
            f"--output_dir {folder}: holds {article(known)} run of {known['stage']}, "
            f"whose {what} have changed since it started:",
            *lines,
            "put them back, give another folder, or --overwrite to start anew",
        ]
    )


def article(known: dict) -> str:
    """`a stopped`: the status of a run before its noun; one that says it is running, and is not, did not finish."""
    status = known["status"]
    return "an unfinished" if status == "running" else f"a {status}"


def remove_ours(folder: Path) -> None:
    """Delete what an earlier stage wrote into the folder and nothing else."""
    for path in {path for pattern in OUR_FILES for path in folder.glob(pattern)}:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

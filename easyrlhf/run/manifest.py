"""The folder a stage leaves: stage.json, which says what it holds, and whether it is still as it was left."""

import json
import shlex
from pathlib import Path

from easyrlhf.errors import InputError
from easyrlhf.files import checksum, write_whole, written_to

STAGE_FILE, CHECKPOINTS, STATE = "stage.json", "checkpoints", "state.json"
INSIDE = ("adapter", "value_model")  # folders that a stage writes into its own
MODEL_FILES = (
    "*.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


def read_stage(folder: str | Path) -> dict:
    """stage.json of a folder, or {} when it has none. Raises InputError when it is not what a stage writes."""
    file = Path(folder) / STAGE_FILE
    if not file.exists():
        return {}
    try:
        info = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: is not JSON ({error}); train the stage again, or restore the file") from error
    if not isinstance(info, dict) or not {"stage", "status"} <= info.keys():
        raise InputError(f"{file}: names no stage and status; train the stage again, or restore the file")
    return info


def write_stage(folder: Path, info: dict) -> None:
    """Write stage.json, beside its place first: it is never half there. A complete one lists the model's files.

    Raises RunError when the disk does not take it.
    """
    if info["status"] == "complete":
        info = info | {"files": checksums(folder)}
    with written_to(folder / STAGE_FILE):
        write_whole(folder / STAGE_FILE, json.dumps(info, indent=2, default=str) + "\n")


def checksums(folder: Path) -> dict[str, str]:
    """CRC-32 of every file that makes the model what it is."""
    files = sorted(path for pattern in MODEL_FILES for path in folder.glob(pattern))
    return {path.name: checksum(path) for path in files}


def is_unfinished(folder: str | Path) -> bool:
    """Whether a folder is that of a stage which has not ended. Raises InputError as read_stage does."""
    stage = read_stage(folder)
    return bool(stage) and stage["status"] != "complete"


def is_checkpoint(path: str | Path) -> bool:
    """Whether a folder is a checkpoint where its run has left it."""
    folder = Path(path).expanduser()
    return folder.absolute().parent.name == CHECKPOINTS and (folder / STATE).is_file()


def is_part_of_run(path: str | Path) -> bool:
    """Whether a path that holds no model may stand for one: a checkpoint, or what an unfinished run will write."""
    folder = Path(path).expanduser()
    return is_checkpoint(folder) or (folder.name in INSIDE and not folder.exists() and is_unfinished(folder.parent))


def ways_out(folder: str | Path, stage: dict) -> str:
    """What can be done with the folder of a run that is not complete."""
    again = f"{stage['stage']}_train --config {shlex.quote(str(Path(folder) / 'args.yaml'))} goes on with it"
    if not any(Path(folder).glob("checkpoints/step-*")):
        there = (Path(folder) / "config.json").exists()
        return f"It has saved no step; {again}{'; --allow_incomplete takes the model that is there' * there}"
    finish = f"easyrlhf finish {shlex.quote(str(folder))} ends it where it is"
    return f"{finish}; {again}; --allow_incomplete takes its newest checkpoint"


def require_whole(flag: str, folder: str, *, allow_incomplete: bool = False, result: str | None = None) -> None:
    """Raise InputError unless the folder's own stage, if it has one, is complete and its model files are unchanged.

    Folders and hub ids without stage.json are taken as they are.
    result  the folder that is to be built on this one, for the message
    """
    stage = read_stage(folder)
    if stage and stage["status"] != "complete":
        if allow_incomplete:
            return
        why = f", so {result} would be built on an unfinished model" if result else ""
        raise InputError(
            f"{flag} {folder}: its {stage['stage']} run is not complete (status {stage['status']}){why}. "
            f"{ways_out(folder, stage)}"
        )
    files = stage.get("files", {})
    if not isinstance(files, dict):
        raise InputError(f"{Path(folder) / STAGE_FILE}: key 'files' is no list of checksums; restore the file")
    for name, then in files.items():
        file = Path(folder) / name
        if not file.is_file():
            raise InputError(f"{flag} {file}: is missing; restore it, or train the stage again")
        if checksum(file) != then:
            raise InputError(
                f"{flag} {file}: is not the file that the stage wrote (its checksum is {checksum(file)}, {STAGE_FILE} "
                f"says {then}). Restore it; if you meant to change it, take its line out of 'files' in {STAGE_FILE}"
            )

"""Branching off: a run that goes on, in a folder of its own, from a checkpoint of another one."""

from pathlib import Path

from easyrlhf.config import TrainConfig
from easyrlhf.errors import InputError
from easyrlhf.files import checksum
from easyrlhf.models.parents import recorded_parent
from easyrlhf.run.checkpoint import list_checkpoints
from easyrlhf.run.differences import Difference, differences
from easyrlhf.run.facts import other_rows
from easyrlhf.run.manifest import CHECKPOINTS, STAGE_FILE, STATE, read_stage

WEIGHTS = ("lora_r", "lora_target", "modules_to_save", "model")  # what decides which weights a checkpoint is of


def origin_of(config: TrainConfig) -> Path | None:
    """The folder of the run whose checkpoint --resume names, when it is another one than output_dir."""
    if config.overwrite or config.resume in ("auto", "never"):
        return None
    folder = Path(config.resume).expanduser().resolve().parent.parent
    return None if folder == Path(config.output_dir).resolve() else folder


def has_branched(config: TrainConfig) -> bool:
    """Whether output_dir holds a run that has branched from the checkpoint that --resume names, and has saved since.

    Raises InputError when what it holds is another run.
    """
    folder, checkpoint = Path(config.output_dir), Path(config.resume)
    if not list_checkpoints(folder):
        return False
    known = read_stage(folder)
    origin, state = known.get("branched_from"), recorded_parent(known, "resume")
    if origin and Path(origin).resolve() == checkpoint.resolve():
        return True
    if state and (checkpoint / STATE).is_file() and checksum(checkpoint / STATE) == state:
        return True
    raise InputError(
        f"--resume {config.resume}: --output_dir {folder} holds a run that "
        f"{f'branched from {origin}' if origin else 'began by itself'}, not from there; give another --output_dir to "
        "branch into, or leave --resume out to continue that run"
    )


def require_same_course(origin: Path, config: TrainConfig) -> None:
    """Raise InputError when a run cannot branch from one of the folder `origin`: another stage, LoRA or model."""
    known = read_stage(origin)
    if not known:
        raise InputError(
            f"--resume {config.resume}: there is no {STAGE_FILE} in {origin}, so nobody knows what it was trained on; "
            f"give a checkpoint where its run left it, in DIR/{CHECKPOINTS}"
        )
    if known["stage"] != config.stage:
        raise InputError(f"--resume {config.resume}: is of {known['stage']}, and this is {config.stage}")
    if others := [str(one) for one in differences(origin, config) if one.name in WEIGHTS]:
        raise InputError(
            f"--resume {config.resume}: trains other weights ({'; '.join(others)}); give the settings of its run"
        )


def require_same_rows(origin: Path, config: TrainConfig, info: dict) -> None:
    """Raise InputError when a run that branches would learn from other rows than the one it goes on from."""
    if lines := other_rows(read_stage(origin), info, config, parts=("train", "ptx")):
        raise InputError(
            f"--resume {config.resume}: its run trains on other rows of --train_data than this one, so the step it "
            "would go on from has no place in them; give the rows of that run:\n" + "\n".join(lines)
        )


def listed_changes(origin: Path, config: TrainConfig, info: dict) -> list[Difference | str]:
    """What is other than in the run of the folder `origin`: settings, and held-out rows."""
    settings = [one for one in differences(origin, config) if not one.is_undecided]
    return [*settings, *(line.strip() for line in other_rows(read_stage(origin), info, config, parts=("valid",)))]

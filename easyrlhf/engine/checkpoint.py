"""Checkpoints: complete or invisible, the newest one found by itself."""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from easyrlhf.engine.engine import Engine
from easyrlhf.errors import InputError

CHECKPOINTS = "checkpoints"


def save_checkpoint(folder: Path, step: int, engines: dict[str, Engine], state: dict, keep: int) -> Path:
    """Write checkpoints/step-N beside its final name, rename it into place, and remove the oldest beyond `keep`.

    state  more to remember; "best": {"step": n, …} protects checkpoints/step-n from removal
    """
    target = folder / CHECKPOINTS / f"step-{step}"
    if target.exists():
        return target
    draft = target.with_name(f".{target.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        for name, engine in engines.items():
            engine.save(draft / name)
        save_file(rng_state(), draft / "rng.safetensors")
        (draft / "state.json").write_text(json.dumps({"step": step, **state}, indent=1))
        sync_to_disk(draft)
        draft.rename(target)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    remove_oldest(folder, keep)
    return target


def remove_oldest(folder: Path, keep: int) -> None:
    """Delete the oldest checkpoints beyond `keep`, except those that one of the others remembers as the best."""
    found = list_checkpoints(folder)
    old, kept = found[:-keep], found[-keep:]
    best = {read_state(checkpoint).get("best", {}).get("step") for checkpoint in kept} if old else set()
    for checkpoint in old:
        if step_of(checkpoint) not in best:
            shutil.rmtree(checkpoint)


def load_checkpoint(checkpoint: Path, engines: dict[str, Engine]) -> dict:
    """Restore the engines and the random state; returns the state given to save_checkpoint, `step` included."""
    for name in engines:
        if not (checkpoint / name).is_dir():
            raise InputError(f"--resume {checkpoint}: holds no {name}, so it is a checkpoint of another stage")
    for name, engine in engines.items():
        engine.load(checkpoint / name)
    restore_rng(load_file(checkpoint / "rng.safetensors"))
    return read_state(checkpoint)


def read_state(checkpoint: Path) -> dict:
    """The state given to save_checkpoint, `step` included."""
    return json.loads((checkpoint / "state.json").read_text())


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted((folder / CHECKPOINTS).glob("step-*"), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    return int(checkpoint.name.removeprefix("step-"))


def remove_checkpoints_after(folder: Path, step: int) -> None:
    """Delete the checkpoints of steps a run goes back behind (--resume never or PATH)."""
    for checkpoint in list_checkpoints(folder):
        if step_of(checkpoint) > step:
            shutil.rmtree(checkpoint)


def find_checkpoint(folder: Path, resume: str) -> Path | None:
    """The checkpoint to start from for --resume auto, never or PATH; None to start from the beginning.

    Raises InputError when PATH is not a checkpoint.
    """
    if resume == "never":
        return None
    if resume == "auto":
        return next(reversed(list_checkpoints(folder)), None)
    if not (Path(resume) / "state.json").exists():
        raise InputError(f"--resume {resume}: not a checkpoint; give a folder {CHECKPOINTS}/step-N of this stage")
    return Path(resume)


def rng_state() -> dict[str, torch.Tensor]:
    """The state of torch's global generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng(state: dict[str, torch.Tensor]) -> None:
    """Take back what rng_state gave."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def sync_to_disk(folder: Path) -> None:
    """Flush every file below the folder, so that the rename cannot outrun the bytes."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

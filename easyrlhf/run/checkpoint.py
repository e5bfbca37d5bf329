"""Checkpoints: complete or invisible, the newest whole one found by itself."""

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from easyrlhf.engine import processes
from easyrlhf.engine.engine import Engine
from easyrlhf.errors import InputError, RunError
from easyrlhf.files import checksum, make_world_readable, sync_to_disk, written_to
from easyrlhf.run.manifest import CHECKPOINTS, STATE

KEPT = "kept"  # folder of a checkpoint with the tensors that are no engine's
Kept = dict[str, dict[str, torch.Tensor]]  # name → tensors by their names


def save_checkpoint(
    folder: Path, step: int, engines: dict[str, Engine], state: dict, keep: int, kept: Kept | None = None
) -> Path:
    """Write checkpoints/step-N beside its final name, rename it into place, and remove the oldest beyond `keep`.

    state  more to remember; "best": {"step": n, …} protects checkpoints/step-n from removal
    kept   tensors to remember; every process has them, and takes part
    Raises RunError when the disk does not take it; nothing is left of it then.
    """
    target = folder / CHECKPOINTS / f"step-{step}"
    draft = target.with_name(f".{target.name}")

    def begin() -> bool:
        if target.exists():
            return False
        with written_to(target):
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        return True

    def own_random_state() -> None:
        with written_to(target):
            save_file(rng_state(), draft / rng_file())

    def end() -> None:
        with written_to(target):
            save_kept(draft, kept or {})
            make_world_readable(draft)
            (draft / STATE).write_text(json.dumps({"step": step, **state, "files": checksums_below(draft)}, indent=1))
            sync_to_disk(draft)  # so that the rename cannot outrun the bytes
            draft.rename(target)

    if not processes.on_main(begin):
        return target
    try:
        for name, engine in engines.items():
            with written_to(target):
                engine.save(draft / name)
        processes.gather_results(own_random_state)
        processes.on_main(end)
    except RunError:
        if processes.is_main():
            shutil.rmtree(draft, ignore_errors=True)
        raise
    processes.on_main(lambda: remove_oldest(folder, keep))
    return target


def checksums_below(folder: Path) -> dict[str, str]:
    """Those of every file below a folder, by its path in it."""
    return {str(path.relative_to(folder)): checksum(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def remove_oldest(folder: Path, keep: int) -> None:
    """Delete the oldest checkpoints beyond `keep`, except those that one of the others remembers as the best."""
    found = list_checkpoints(folder)
    old, kept = found[:-keep], found[-keep:]
    best = {read_state(checkpoint).get("best", {}).get("step") for checkpoint in kept} if old else set()
    for checkpoint in old:
        if step_of(checkpoint) not in best:
            shutil.rmtree(checkpoint)


def load_checkpoint(checkpoint: Path, engines: dict[str, Engine]) -> dict:
    """Restore the engines and the random state; returns the state given to save_checkpoint, `step` included.

    Other processes than those that wrote it begin with random states of their own.
    """
    for name in engines:
        if not (checkpoint / name).is_dir():
            raise InputError(f"--resume {checkpoint}: holds no {name}, so it is a checkpoint of another stage")
    for name, engine in engines.items():
        engine.load(checkpoint / name)
    if (checkpoint / rng_file()).exists():
        restore_rng(load_file(checkpoint / rng_file()))
    return {name: value for name, value in read_state(checkpoint).items() if name != "files"}


def save_kept(checkpoint: Path, kept: Kept) -> None:
    """Write tensors that are to be remembered, as load_kept reads them."""
    for name, tensors in kept.items():
        (checkpoint / KEPT).mkdir(exist_ok=True)
        save_file(tensors, checkpoint / KEPT / f"{name}.safetensors")


def load_kept(checkpoint: Path) -> Kept:
    """The tensors that were kept in a checkpoint."""
    return {file.stem: load_file(file) for file in sorted((checkpoint / KEPT).glob("*.safetensors"))}


def read_state(checkpoint: Path) -> dict:
    """The state given to save_checkpoint, `step` included."""
    return json.loads((checkpoint / STATE).read_text())


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files; None when each is as it was written."""
    try:
        files = read_state(checkpoint)["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{STATE} cannot be read ({type(error).__name__})"
    for name, then in files.items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if checksum(checkpoint / name) != then:
            return f"{name} is not as it was written"
    return None


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


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint of a run that is whole; None when there is none. With it, a line on every damaged one."""
    passed_over: list[str] = []
    for checkpoint in reversed(list_checkpoints(folder)):
        if (found := damage(checkpoint)) is None:
            return checkpoint, passed_over
        passed_over.append(f"{checkpoint}: is damaged: {found}")
    return None, passed_over


def find_checkpoint(folder: Path, resume: str) -> tuple[Path | None, list[str]]:
    """The checkpoint to start from for --resume auto, never or PATH; None to start from the beginning.

    With it, a line on every newer one that is damaged. Raises InputError when PATH is not a whole checkpoint, or when
    there are checkpoints and none is whole.
    """
    if resume == "never":
        return None, []
    if resume != "auto":
        if not (Path(resume) / STATE).exists():
            raise InputError(f"--resume {resume}: not a checkpoint; give a folder {CHECKPOINTS}/step-N of this stage")
        if found := damage(Path(resume)):
            raise InputError(f"--resume {resume}: is damaged: {found}; give another one")
        return Path(resume), []
    newest, passed_over = newest_whole(folder)
    if passed_over and newest is None:
        raise InputError(
            "\n".join([*passed_over, "no checkpoint is whole; restore one, or start anew with --resume never"])
        )
    return newest, passed_over


def rng_file() -> str:
    """Name of the file with this process's random state."""
    return f"rng-{processes.rank()}.safetensors"


def rng_state() -> dict[str, torch.Tensor]:
    """The state of torch's global generators, of those that this run uses."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():  # of this process's GPU; a run on the CPU has none, and makes no context on one
        state["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


@contextmanager
def random_kept() -> Iterator[None]:
    """Leave the global generators of torch, numpy and Python as they are, whatever is done in here."""
    ours = rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        restore_rng(ours[0])
        np.random.set_state(ours[1])
        random.setstate(ours[2])


def restore_rng(state: dict[str, torch.Tensor]) -> None:
    """Take back what rng_state gave."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])

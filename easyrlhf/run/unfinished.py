"""What the path of a model stands for: a folder that is read as it is, or a checkpoint of a run that has not ended.

The one place that decides it, for the stages and for every tool.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml

from easyrlhf.errors import InputError
from easyrlhf.run.checkpoint import damage, list_checkpoints, newest_whole, step_of
from easyrlhf.run.manifest import INSIDE, is_checkpoint, is_unfinished, read_stage, require_whole


@dataclass(frozen=True)
class Stand:
    """A checkpoint that stands for a model.

    part         folder below the model's own that was asked for, such as adapter; "" for the model itself
    passed_over  a line on every newer checkpoint, which is damaged
    """

    checkpoint: Path
    part: str = ""
    passed_over: tuple[str, ...] = ()

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.checkpoint.parent.parent

    def __str__(self) -> str:
        """What is read, for people."""
        status = read_stage(self.run)["status"]
        run = f"its run is not complete (status {status}); " if status != "complete" else ""
        return f"{self.run}: {run}its step {step_of(self.checkpoint)} is read, from {self.checkpoint}"


def stand_in(flag: str, path: str, *, allow_incomplete: bool, result: str | None = None) -> Stand | None:
    """The checkpoint that a model's path stands for; None for a folder or hub id that is read as it is.

    A checkpoint's own folder stands for itself. An unfinished run, where it may be taken, stands for its newest one; a
    run that has none is taken as it is when it holds a model all the same.
    result  the folder that is to be built on the model, for messages
    Raises InputError for an unfinished run that may not be taken or holds no model, and for damaged checkpoints.
    """
    whole, part = Path(path).expanduser(), ""
    if whole.name in INSIDE and not whole.exists():
        whole, part = whole.parent, whole.name
    if is_checkpoint(whole):
        if not read_stage(run := whole.absolute().parent.parent):
            raise InputError(f"{flag} {path}: is a checkpoint whose run has no stage.json, in {run}; restore the file")
        if found := damage(whole):
            raise InputError(f"{flag} {path}: is damaged: {found}; give another one")
        return Stand(whole, part)
    if not is_unfinished(whole):
        return None
    require_whole(flag, str(whole), allow_incomplete=allow_incomplete, result=result)
    checkpoint, passed_over = newest_whole(whole)
    if checkpoint:
        return Stand(checkpoint, part, tuple(passed_over))
    if (whole / "config.json").exists():
        return None
    raise InputError(
        f"{flag} {path}: its run has written no checkpoint yet, so there is no model in it; wait for the first one, or "
        "run its command again"
    )


def shape_of(path: str) -> str:
    """The folder or hub id with the configuration of a model: its own, or where an unfinished run started from."""
    folder = Path(path).expanduser()
    folder = folder.absolute().parent.parent if is_checkpoint(folder) else folder
    if (folder / "config.json").exists() or not is_unfinished(folder):
        return path if folder == Path(path).expanduser() else str(folder)
    file = folder / "args.yaml"
    settings = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
    start = settings.get("model") if isinstance(settings, dict) else None
    return shape_of(start) if start and start != path else path


def checkpoint_at(run: Path, step: int | None) -> tuple[Path, list[str]]:
    """The checkpoint of a run's step, by default its newest whole one; with a line on every newer one that is damaged.

    Raises InputError when there is none, when it is damaged, or when the run has none at all.
    """
    found = list_checkpoints(run)
    if step is None and (newest := newest_whole(run))[0]:
        return newest
    if not found:
        raise InputError(
            f"{run}: has no checkpoint, so there is no model in it yet; the run's command starts from the beginning"
        )
    if step is None:
        raise InputError(f"{run}: none of its checkpoints is whole; restore one")
    chosen = next((checkpoint for checkpoint in found if step_of(checkpoint) == step), None)
    if chosen is None:
        there = ", ".join(str(step_of(checkpoint)) for checkpoint in found)
        raise InputError(f"--step {step}: {run} has no checkpoint of that step; it has {there}")
    if why := damage(chosen):
        raise InputError(f"--step {step}: {chosen} is damaged: {why}; give another one")
    return chosen, []

"""Models that a stage builds on although their run has not ended: kept in the stage's own folder as they were taken."""

import shutil
from dataclasses import fields, replace
from pathlib import Path

from easyrlhf.config import TrainConfig
from easyrlhf.config.base import MODEL
from easyrlhf.engine import processes
from easyrlhf.report.console import Console
from easyrlhf.run.differences import PARENTS
from easyrlhf.run.manifest import INSIDE, read_stage
from easyrlhf.run.run import Run
from easyrlhf.run.unfinished import stand_in


def with_parents(run: Run, console: Console) -> TrainConfig:
    """The run's settings, which from now on name models that can be read: those made of checkpoints where it must be.

    Raises InputError for an unfinished run that the settings do not let the stage take.
    """
    config = run.config
    given = model_settings(config)
    first = {path: name for name, path in reversed(given.items())}  # a path that is given twice is one model
    begun = bool(read_stage(run.home)) and not config.overwrite
    places = {True: run.home, False: run.folder}  # those of a dry run are looked at, and none are made there
    made = {
        path: processes.on_main(lambda name=name, path=path: keep_parent(places, name, path, config, begun, console))
        for path, name in first.items()
    }
    run.config = replace(config, **{name: made[path] for name, path in given.items() if made[path] != path})
    return run.config


def model_settings(config: TrainConfig) -> dict[str, str]:
    """Setting → the model that it names, of those that are given."""
    names = [one.name for one in fields(config) if one.metadata.get("on_resume") == MODEL]
    return {name: path for name in names if (path := config.value(name))}


def keep_parent(
    places: dict[bool, Path], name: str, path: str, config: TrainConfig, begun: bool, console: Console
) -> str:
    """What is read for the model of a setting: its path, or the folder that a checkpoint was made into.

    A run that goes on builds on what it began with, whatever has become of the other run; so does what serves it.
    places  the run's own folder by True, the one that may be written to by False
    begun   whether the run has
    """
    part = Path(path).name if Path(path).name in INSIDE else ""
    there = places[True] / PARENTS / name
    recorded = read_stage(there).get("checkpoint")
    if recorded and begun:
        return str(there / part)
    stand = stand_in(f"--{name}", path, allow_incomplete=config.allow_incomplete, result=config.output_dir)
    if stand is None:
        return path
    if recorded and Path(recorded).parent.parent == stand.run.absolute() and not config.overwrite:
        return str(there / stand.part)
    from easyrlhf.stages.restored import write_restored  # which imports every stage

    place = places[False] / PARENTS / name
    for line in stand.passed_over:
        console.warn(line)
    shutil.rmtree(place, ignore_errors=True)
    write_restored(stand.run, stand.checkpoint, place)
    console.note(f"--{name} {stand}; this run keeps it in {there}")
    return str(place / stand.part)

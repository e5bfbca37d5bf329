"""A run's model as one of its checkpoints has it: built and written as its stage does, without data and rewards."""

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from easyrlhf.config import OnlineConfig
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import tokenizer_fingerprint
from easyrlhf.engine.device import take_device
from easyrlhf.errors import InputError
from easyrlhf.models.parents import find_parent, recorded_parent
from easyrlhf.run.checkpoint import step_of
from easyrlhf.run.claim import UNFINISHED
from easyrlhf.run.differences import PARENTS, PRECISIONS, recorded_settings
from easyrlhf.run.manifest import read_stage, write_stage
from easyrlhf.run.renderers import open_renderer
from easyrlhf.run.run import Run
from easyrlhf.run.signals import StopRequest
from easyrlhf.run.trained_weights import load_trained
from easyrlhf.stage_table import STAGES
from easyrlhf.stages import online_models
from easyrlhf.stages.offline import OfflineStage
from easyrlhf.stages.recorded_parents import model_settings

# One process writes a model, and trains nothing.
ALONE = {"context_parallel_size": 1, "gradient_checkpointing": False, "offload_activations": False}


@dataclass
class Restored:
    """A run at one of its checkpoints.

    run     where its model is written, at the checkpoint's step
    models  those that the stage trains, by the names of their engines
    """

    run: Run
    renderer: Renderer
    models: dict[str, nn.Module]

    def write(self) -> dict[str, Any]:
        """Write the model's folder as the stage does at its end; returns what the stage adds to stage.json."""
        run, renderer = self.run, self.renderer
        if not isinstance(run.config, OnlineConfig):
            return offline_stage(run.config.stage).save(run, self.models["model"], renderer)
        online_models.save_policy(run, renderer, self.models["policy"])
        if "value" in self.models:
            online_models.save_value_model(run, renderer, self.models["value"])
        return {}


def offline_stage(name: str) -> OfflineStage:
    """An offline stage by its name: where the table says, in capitals."""
    return getattr(import_module(STAGES[name].module), name.upper())


def restore(folder: Path, checkpoint: Path, target: Path, devices: str | None, **changed) -> Restored:
    """The models of a run's checkpoint, to be written into the folder `target`, which may be the run's own.

    One process does it, whatever number wrote the checkpoint. Checkpoints hold what was trained; the rest, such as the
    tokenizer and what lies below an adapter, comes from the model that the run started from.
    changed  settings that differ from the run's
    Raises InputError when the folder is not of a training stage, or when what the run started from is no longer there.
    """
    known = read_stage(folder)
    config = replace(recorded_settings(folder, known), devices=devices, precision=PRECISIONS[known["precision"]])
    config = replace(config, output_dir=str(folder), resume=str(checkpoint), overwrite=False, dry_run=False)
    config = replace(config, deepspeed="none", sharding="none", nnodes=1, node_rank=0, **ALONE, **changed)
    config = replace(config, attn_implementation=None)  # another kernel may need another device
    given = model_settings(config)
    found = {name: found_again(folder, known, name, path) for name, path in given.items()}
    config = replace(config, **found)
    run = Run(config, target, StopRequest(), UNFINISHED, take_device(devices))
    run.step = step_of(checkpoint)
    renderer = open_renderer(config.model, config, chat_template=config.chat_template)
    fingerprint = tokenizer_fingerprint(renderer.tokenizer)
    if different := [name.replace("_", " ") for name, found in fingerprint.items() if known.get(name, found) != found]:
        raise InputError(
            f"{folder}: the {' and '.join(different)} of {config.model}, where its run started, has changed since; put "
            "the model back"
        )
    start = value_start(folder, known, {path: found[name] for name, path in given.items()})
    models = restored_learners(run, renderer, start)
    for name, model in models.items():
        load_trained(checkpoint / name, model)
    return Restored(run, renderer, models)


def found_again(folder: Path, known: dict, name: str, path: str) -> str:
    """Where the model of a run's setting lies now: kept by the run, as it was given, or moved.

    Raises InputError when the model that the run started from is gone; others are missed where they are needed.
    """
    if read_stage(own := folder / PARENTS / name):
        return str(own)
    try:
        return find_parent(path, folder, recorded_parent(known, name))
    except InputError:
        if name == "model":
            raise
        return path


def value_start(folder: Path, known: dict, found: dict[str, str]) -> str | None:
    """Where the value model of a run started, if it has one.

    found  what its settings named → where that lies now
    """
    start = known.get("parents", {}).get("value model")
    if start and Path(start).parent.name == PARENTS:
        return str(folder / PARENTS / Path(start).name)
    return found.get(start, start)


def restored_learners(run: Run, renderer: Renderer, value_model: str | None) -> dict[str, nn.Module]:
    """The models that a run trains, as it started; a value model may start as the policy does."""
    config = run.config
    if not isinstance(config, OnlineConfig):
        return {"model": offline_stage(config.stage).model(run, renderer)}
    return online_models.load_learners(run, renderer, None if value_model == config.model else value_model)


def write_restored(folder: Path, checkpoint: Path, target: Path, devices: str | None = "cpu") -> None:
    """Make a complete folder of a run's checkpoint somewhere else; the run is only read."""
    found = restore(folder, checkpoint, target, devices, **no_examination(folder))
    results = found.write()
    info = read_stage(folder) | {"status": "complete", "step": found.run.step, "checkpoint": str(checkpoint.absolute())}
    for name in ("files", "metrics", "best", "ended_early", "probes"):  # of the run's own end
        info.pop(name, None)
    write_stage(target, info | results)


def no_examination(folder: Path) -> dict[str, int]:
    """The setting that leaves a reward model unexamined, where the stage has it."""
    return {"examine_rows": 0} if read_stage(folder).get("stage") == "rm" else {}

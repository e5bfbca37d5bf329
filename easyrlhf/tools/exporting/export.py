"""easyrlhf export: a model in the form that another program reads."""

from dataclasses import replace
from pathlib import Path

from easyrlhf.config import ExportConfig
from easyrlhf.errors import InputError
from easyrlhf.run.manifest import read_stage
from easyrlhf.run.unfinished import checkpoint_at
from easyrlhf.run.upload import check_push, push_or_say
from easyrlhf.tools.at_hand import at_hand
from easyrlhf.tools.exporting.classifier import export_classifier
from easyrlhf.tools.exporting.exported import check_disk_room, check_source
from easyrlhf.tools.exporting.full import export_full

FORMS = {"full": export_full, "sequence_classification": export_classifier}


def export_model(config: ExportConfig) -> Path:
    """Write `model` into `output_dir` in the form that `to` names; nothing is left there when it cannot be proven.

    Returns the folder. Raises InputError for a model without that form or a folder without room, RunError when the
    written model is not the same.
    """
    folder, source = Path(config.folder), source_of(config)
    check_disk_room(config, folder)
    if config.push_to_hub:
        check_push("--push_to_hub", config.push_to_hub, config.hub_private)
    model = at_hand("--model", source, allow_incomplete=config.allow_incomplete)
    check_source(model, config)
    FORMS[config.to](replace(config, model=model), folder, source)
    if config.push_to_hub:
        print(push_or_say(folder, config.push_to_hub, config.hub_private))
    return folder


def source_of(config: ExportConfig) -> str:
    """The folder that the settings mean: `model`, or the checkpoint of its step. Raises InputError."""
    if config.step is None:
        return config.model
    run = Path(config.model)
    if not read_stage(run):
        raise InputError(f"--step {config.step}: {run} is not the folder of a run, which has checkpoints; leave it out")
    return str(checkpoint_at(run, config.step)[0])

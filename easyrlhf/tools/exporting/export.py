"""easyrlhf export: a model in the form that another program reads."""

from pathlib import Path

from easyrlhf.config import ExportConfig
from easyrlhf.engine.upload import check_push, push_or_say
from easyrlhf.tools.exporting.classifier import export_classifier
from easyrlhf.tools.exporting.exported import check_room
from easyrlhf.tools.exporting.full import export_full

FORMS = {"full": export_full, "sequence_classification": export_classifier}


def export_model(config: ExportConfig) -> Path:
    """Write `model` into `output_dir` in the form that `to` names; nothing is left there when it cannot be proven.

    Returns the folder. Raises InputError for a model without that form or a folder without room, RunError when the
    written model is not the same.
    """
    folder = Path(config.output_dir)
    check_room(config, folder)
    if config.push_to_hub:
        check_push("--push_to_hub", config.push_to_hub, config.hub_private)
    FORMS[config.to](config, folder)
    if config.push_to_hub:
        print(push_or_say(folder, config.push_to_hub, config.hub_private))
    return folder

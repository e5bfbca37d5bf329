"""What a glance shows to be wrong with a command's inputs, told before torch is imported, which takes seconds."""

from dataclasses import fields
from itertools import islice
from pathlib import Path

from easyrlhf.config import FinishConfig, LookConfig, TrainConfig
from easyrlhf.config.base import Settings
from easyrlhf.data.hub import require_model
from easyrlhf.data.kinds import STAGE_KINDS
from easyrlhf.data.ledger import Ledger
from easyrlhf.data.reader import read_records
from easyrlhf.data.sources import open_sources
from easyrlhf.models.parents import naming_adapter, root_of
from easyrlhf.paths import split_paths
from easyrlhf.report.trackers.chosen import require_installed
from easyrlhf.run.claim import NEW, check_output_folder, claim_folder
from easyrlhf.run.differences import as_begun, recorded_settings
from easyrlhf.run.manifest import is_part_of_run, read_stage

ROWS = 100  # of each file


def glance(config: TrainConfig) -> None:
    """Look at the output folder, for models that are not there, and at the form of the first rows of every file.

    The stage looks at all of it, and alone where a run goes on: a finished one needs its inputs no more. Hub data sets
    are not loaded, and rows that a function of the user's changes are not read. Raises InputError.
    """
    require_installed(config.report_to)
    config = as_begun(config.resolved())
    folder = Path(config.output_dir)
    check_output_folder(folder)
    if config.max_length is not None:
        config = config.with_lengths(None)
    elif read_stage(folder):  # lengths that are not this run's: the model must be asked for them
        return
    if folder.is_dir() and claim_folder(config, folder) != NEW:
        return
    glance_at_models(config)
    kind = STAGE_KINDS[config.stage]
    for data, wanted in ((config.train_data, kind), (config.valid_data, kind), (config.ptx_data, "demonstration")):
        if data:
            glance_at_rows(config, data, wanted)


def glance_at_models(settings: Settings) -> None:
    """Raise InputError for a setting that names a model, and one that is not there; of a run's folder its run knows.

    So it does for the run of `easyrlhf finish` that is none.
    """
    if isinstance(settings, FinishConfig):
        recorded_settings(Path(settings.run), read_stage(settings.run))
    for setting in fields(settings):
        if setting.metadata.get("model"):
            given = settings.value(setting.name) or ""
            for path in split_paths(given) if setting.metadata.get("many") else filter(None, [given]):
                base = root_of(path)
                with naming_adapter(path, base):
                    of_a_tokenizer = isinstance(settings, LookConfig) and Path(base).is_dir()  # no more of it is read
                    if not (read_stage(base) or is_part_of_run(base) or of_a_tokenizer):
                        require_model(base)


def glance_at_rows(config: TrainConfig, data: str, kind: str) -> None:
    """Read the first rows of each local file of a data setting. Raises InputError."""
    for source in open_sources(data, field=config.field, transform=config.transform, local=True):
        if not config.transform:
            records = read_records(source, kind, Ledger("", None), format=config.format, on_bad_row=config.on_bad_row)
            list(islice(records, ROWS))

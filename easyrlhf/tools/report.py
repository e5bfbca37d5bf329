"""easyrlhf report: report.html of a stage folder anew, or one page over several runs."""

from pathlib import Path

import yaml

from easyrlhf.errors import InputError
from easyrlhf.files import written_to
from easyrlhf.report.card import write_model_card
from easyrlhf.report.conclusion import examined_by
from easyrlhf.report.html import REPORT_FILE, write_report
from easyrlhf.report.info import STAGE_TITLES
from easyrlhf.report.log import METRICS_FILE, read_rows
from easyrlhf.report.overlay import RunRecord, write_overlay
from easyrlhf.report.plots import plot_run
from easyrlhf.run.manifest import read_stage

ARGS_FILE = "args.yaml"


OUTPUT = "outputs/report.html"  # of several runs


def report(folders: tuple[str, ...], output: str | None) -> Path:
    """Write the page of one run into its folder, or to `output` alone, or that of several; returns its path.

    Raises InputError for a folder that no stage wrote, or one named twice; RunError when the disk does not take it.
    """
    paths = [Path(folder) for folder in folders]
    if twice := sorted({str(path) for path in paths if paths.count(path) > 1}):
        raise InputError(f"{twice[0]}: is named twice; name each run once")
    runs = [record(path, label) for path, label in zip(paths, labels(paths), strict=True)]
    page = run_page(paths[0], runs[0], output) if len(runs) == 1 else overlay_of(runs, Path(output or OUTPUT))
    print(page)
    return page


def overlay_of(runs: list[RunRecord], output: Path) -> Path:
    """The page over several runs."""
    with written_to(output, "Nothing of the runs was changed; --output FILE takes another place"):
        return write_overlay(output, runs)


def run_page(folder: Path, run: RunRecord, output: str | None) -> Path:
    """The page of one run: in its folder, where all that is drawn of it is made anew, or in a file."""
    if output is None:
        with written_to(folder / REPORT_FILE, "The run is as it was; --output FILE writes the page elsewhere"):
            return rewritten(folder, run)
    with written_to(Path(output), "The run is as it was; --output FILE takes another place"):
        return write_report(folder, stage=run.stage, settings=run.settings, info=read_stage(folder), page=Path(output))


def record(folder: Path, label: str) -> RunRecord:
    """What a stage's folder holds of its run. Raises InputError when no stage wrote it."""
    stage = read_stage(folder).get("stage")
    if stage not in STAGE_TITLES or not (folder / ARGS_FILE).exists():
        raise InputError(
            f"{folder}: is not the output folder of a training stage (it has no stage.json and {ARGS_FILE} of one); "
            "give the --output_dir of sft_train, rm_train, ppo_train and so on"
        )
    settings = yaml.safe_load((folder / ARGS_FILE).read_text(encoding="utf-8"))
    return RunRecord(label, stage, settings, read_rows(folder / METRICS_FILE), examined_by(stage, folder))


def labels(paths: list[Path]) -> list[str]:
    """The shortest ends of paths that tell them apart."""
    parts = [path.absolute().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(map(str, paths))


def rewritten(folder: Path, run: RunRecord) -> Path:
    """The run's plots, page and model card, made anew from its files."""
    info = read_stage(folder)
    plot_run(folder, run.stage)
    write_model_card(folder, stage=run.stage, info=info)
    return write_report(folder, stage=run.stage, settings=run.settings, info=info)

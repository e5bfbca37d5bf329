"""easyrlhf finish: a run that has stopped is ended where it is: a complete folder, from one of its checkpoints."""

import shlex
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from easyrlhf.config import FinishConfig, OnlineConfig, TrainConfig
from easyrlhf.errors import InputError, RunError
from easyrlhf.files import disk_reason, hold_file, written_to
from easyrlhf.offline.loop import planned_steps
from easyrlhf.online.loop import planned_rollouts
from easyrlhf.report.conclusion import concluded, examined_by
from easyrlhf.report.console import Console, counting_bar
from easyrlhf.report.html import REPORT_FILE
from easyrlhf.report.log import METRICS_FILE, amend, read_rows, set_aside
from easyrlhf.report.next_steps import next_commands
from easyrlhf.report.plots import DOCTOR_FILE, RM_EVAL_FILE
from easyrlhf.run.advice import free_name
from easyrlhf.run.checkpoint import damage, read_state, step_of
from easyrlhf.run.claim import LOCK
from easyrlhf.run.differences import SETTINGS_FILE, recorded_settings
from easyrlhf.run.manifest import CHECKPOINTS, read_stage
from easyrlhf.run.unfinished import checkpoint_at
from easyrlhf.stages.lifecycle import upload
from easyrlhf.stages.restored import Restored, no_examination, offline_stage, restore
from easyrlhf.tools.report import record, rewritten


def finish_run(config: FinishConfig) -> Path:
    """Make a complete folder of a run that has stopped, from its newest checkpoint or that of a step; returns it.

    Raises InputError for a folder of no run, one that another process works in, or one without such a checkpoint;
    RunError when the disk does not take the model, and then the run is as it was.
    """
    folder, console = Path(config.run), Console("finish")
    known = read_stage(folder)
    settings = replace(recorded_settings(folder, known), output_dir=config.run)
    with ExitStack() as stack:
        hold(stack, folder)
        known = read_stage(folder)
        if known["status"] == "complete":
            console.note(f"{folder}: this run is complete already; nothing to do{of_a_step(folder, config.step)}")
            return folder
        checkpoint, passed_over = checkpoint_at(folder, config.step)
        for line in passed_over:
            console.warn(f"{line}; the one before is taken")
        end(console, folder, known, settings, checkpoint, config)
    return folder


def hold(stack: ExitStack, folder: Path) -> None:
    """Keep other processes out of the folder as long as the stack lasts. Raises InputError when one works there."""
    taken = (
        f"{folder}: its run is at work; stop it first (Ctrl-C, or SIGTERM: it saves its last step). Meanwhile "
        f"easyrlhf export {shlex.quote(str(folder))} --step N makes a model of a checkpoint"
    )
    try:
        stack.enter_context(hold_file(folder / LOCK, taken))
    except OSError as error:
        raise RunError(
            f"{folder}: could not be written: {disk_reason(error)}. The run is as it was; easyrlhf export "
            f"{shlex.quote(str(folder))} --step N --output_dir DIR makes a model of a checkpoint elsewhere"
        ) from error


def of_a_step(folder: Path, step: int | None) -> str:
    """What to do for a model of an earlier step of a complete run."""
    return f"; easyrlhf export {shlex.quote(str(folder))} --step {step} makes a model of that step" if step else ""


def end(
    console: Console, folder: Path, known: dict, settings: TrainConfig, checkpoint: Path, config: FinishConfig
) -> None:
    """Write the model of a checkpoint into its run's folder, and mark the run as complete and ended early."""
    state, step, total = read_state(checkpoint), step_of(checkpoint), steps_planned(settings, known)
    best = best_of(folder, state, chosen=config.step is not None)
    source = folder / CHECKPOINTS / f"step-{best['step']}" if best else checkpoint
    console.note(f"{folder}: step {step_of(source)} of {total} becomes a complete model, from {source}")
    rows = held_out_rows(folder, settings)
    restored = restore(folder, source, folder, config.devices, **({} if rows else no_examination(folder)))
    run = restored.run
    run.info = {name: value for name, value in known.items() if name != "step"}
    run.step, run.best, run.earlier_seconds = step, best, state.get("seconds", 0.0)
    with written_to(folder, f"{checkpoint} is safe, and the run goes on from there or is finished by the same command"):
        metrics = metrics_of(folder, step_of(source)) | evaluated(restored, rows, step_of(source))
        results = restored.write()
        for file in set_aside(folder, step):
            console.note(f"what was logged after step {step} is now in {file}")
    run.complete(metrics=metrics, ended_early={"step": step, "of": total}, **results)
    with written_to(folder, f"Its model is complete; easyrlhf report {shlex.quote(str(folder))} writes the pages anew"):
        rewritten(folder, record(folder, folder.name))
    further = ["--config", folder / SETTINGS_FILE, "--resume", checkpoint, "--output_dir", free_name(folder)]
    said = concluded(settings.stage, read_rows(folder / METRICS_FILE), examined_by(settings.stage, folder)).sentence
    console.finish(
        [
            f"{settings.stage} ended early, at step {step} of {total}: {folder} is complete",
            said,
            f"report: {folder / REPORT_FILE}",
            "The last of these commands trains it further:",
        ],
        [*next_commands(settings.stage, asdict(settings)), [f"{settings.stage}_train", *map(str, further)]],
    )
    upload(settings, console)


def steps_planned(settings: TrainConfig, known: dict) -> int:
    """The steps that the run would have had."""
    part = known["data"]["train"]
    rows = part.get("rows", part["used"])  # which earlier versions counted alone
    return planned_rollouts(settings, rows) if isinstance(settings, OnlineConfig) else planned_steps(settings, rows)


def best_of(folder: Path, state: dict, *, chosen: bool) -> dict | None:
    """The best step that a checkpoint remembers: that of --keep_best, unless another step was asked for.

    Raises InputError when its own checkpoint is not whole.
    """
    best = state.get("best")
    if best is None or (chosen and best["step"] != state["step"]):
        return None
    checkpoint = folder / CHECKPOINTS / f"step-{best['step']}"
    if why := damage(checkpoint):
        raise InputError(
            f"{checkpoint}: holds the best {best['metric']}, and is damaged: {why}; restore it, or give --step "
            f"{state['step']} for the last weights"
        )
    return best


def metrics_of(folder: Path, step: int) -> dict[str, Any]:
    """What was logged at a step."""
    rows = [row for row in read_rows(folder / METRICS_FILE) if row["step"] == step]
    return {name: value for row in rows for name, value in row.items() if name != "step"}


# --- a reward model's examination, which describes the weights of the folder


def held_out_rows(folder: Path, settings: TrainConfig) -> Dataset | None:
    """The held-out rows of a reward model's run, as long as they lie in its cache."""
    file = folder / "cache" / "valid.arrow"
    return Dataset.from_file(str(file)) if settings.stage == "rm" and file.exists() else None


def evaluated(restored: Restored, rows: Dataset | None, step: int) -> dict[str, float]:
    """What the held-out rows say of a reward model, logged at its step as well; nothing of other stages.

    Where the rows are gone, so are the files that describe an evaluation, which may be of another step.
    """
    run = restored.run
    if run.config.stage != "rm":
        return {}
    if rows is None:
        for name in (RM_EVAL_FILE, DOCTOR_FILE):
            (run.folder / name).unlink(missing_ok=True)
        return {}
    task = offline_stage("rm").task(restored.models["model"], run)
    with counting_bar("pair", len(rows), 0) as advance:
        found = task.evaluate(rows, advance)
    amend(run.folder / METRICS_FILE, step, found)
    return found

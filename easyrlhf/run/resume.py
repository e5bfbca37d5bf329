"""How a run goes on from what it finds: what is told of that, what is compared, and what is written down of it."""

import importlib.metadata
from typing import TYPE_CHECKING

from easyrlhf.engine import processes
from easyrlhf.engine.device import dtype_name
from easyrlhf.errors import InputError
from easyrlhf.files import checksum
from easyrlhf.models.parents import recorded_parent
from easyrlhf.run.branch import listed_changes, require_same_rows
from easyrlhf.run.checkpoint import list_checkpoints, read_state, step_of
from easyrlhf.run.claim import READ_FIRST, article, changed, remove_ours
from easyrlhf.run.differences import write_settings
from easyrlhf.run.facts import library_versions, other_rows, other_tokens
from easyrlhf.run.inputs import inputs_of
from easyrlhf.run.manifest import CHECKPOINTS, STATE, read_stage, write_stage

if TYPE_CHECKING:
    from easyrlhf.run.run import Run


def beginning_of(run: "Run") -> str:
    """Where a run begins and what goes by that, for the start summary."""
    if run.origin is None:
        begin = f"continues after {run.checkpoint.name}" if run.checkpoint else "from the beginning"
        return begin + what_will_be_gone(run)
    differences = "; ".join(map(str, listed_changes(run.origin, run.asked, run.info))) or "none"
    return f"branches from {run.checkpoint}; settings that differ: {differences.replace(' → ', ' -> ')}"


def what_will_be_gone(run: "Run") -> str:
    """What is in the folder and goes when the run begins, for the start summary; "" where that is nothing."""
    known = read_stage(run.home)
    if run.config.overwrite:
        return f", in place of {article(known)} run of {known['stage']}" if known else ""
    begin = step_of(run.checkpoint) if run.checkpoint else 0
    names = [checkpoint.name for checkpoint in list_checkpoints(run.home) if step_of(checkpoint) > begin]
    return f", without {', '.join(names)}" if names else ""


def account_of(run: "Run", info: dict) -> dict:
    """What stage.json says of a run under way; info are the facts that its stage has found."""
    account = {
        "status": "running",
        "easyrlhf_version": importlib.metadata.version("easyrlhf"),
        "stage": run.config.stage,
        **info,
        "precision": dtype_name(run.dtype),
        "seed": run.config.seed,
        "processes": processes.size(),
        "libraries": library_versions(),
    }
    return account | ({"branched_from": str(run.checkpoint)} if run.origin else {})


def require_same(run: "Run") -> None:
    """Raise InputError unless tokens and rows are those of the run that is continued, branched from or complete."""
    if run.origin:
        require_same_rows(run.origin, run.config, run.info)
    elif run.checkpoint or run.found == READ_FIRST:
        known = read_stage(run.home)
        if lines := other_tokens(known, run.info, run.config):
            raise InputError(changed(run.home, known, "tokens", lines))
        if lines := other_rows(known, run.info, run.config):
            raise InputError(changed(run.home, known, "rows", lines))
        require_best(run)


def require_best(run: "Run") -> None:
    """Raise InputError when the checkpoint of the best step, as the one to continue remembers it, is not there."""
    best = read_state(run.checkpoint).get("best") if run.checkpoint else None
    place = best and run.home / CHECKPOINTS / f"step-{best['step']}"
    if place and not place.is_dir():
        raise InputError(
            f"{place}: is missing, and holds the best {best['metric']} up to {run.checkpoint}, which this run "
            "continues; put it back, or start anew with --resume never"
        )


def mark_begun(run: "Run") -> None:
    """Write what says that the run is under way, and with --overwrite remove what an earlier stage has written."""
    known = read_stage(run.folder)
    run.info["inputs"] = inputs_of(run.asked)  # the hub's models are there by now
    if run.origin:
        run.info["inputs"]["resume"] = checksum(run.checkpoint / STATE)
    elif run.checkpoint and "branched_from" in known:  # it goes on as the branch that it is
        run.info["branched_from"] = known["branched_from"]
        run.info["inputs"]["resume"] = recorded_parent(known, "resume")
    if run.config.overwrite and known:  # where no stage has written, nothing is ours
        remove_ours(run.folder)
    write_settings(run.folder, run.asked)
    write_stage(run.folder, run.info)

"""What a report and a model card say of a run beside its numbers, read from its stage.json."""

import re
from typing import Any, TypedDict

from easyrlhf.report.metrics import show
from easyrlhf.stage_table import STAGES

STAGE_TITLES = {name: stage.title for name, stage in STAGES.items()}
BEST, EARLY = "best step", "ended early"


class RunInfo(TypedDict, total=False):
    """The keys of stage.json that are shown; one that is missing is left out.

    base              hub id or folder that the first stage started from
    parents           role -> folder: {"model": "outputs/sft", "reward_model": "outputs/rm"}
    data              name -> {"files", "read", "used", "dropped": {reason: rows}, "notes", …}
    ended_early       {"step", "of"} of a run that `easyrlhf finish` has ended
    stage             sft, rm, ppo…
    hub               what report.metadata.hub_facts found: base_model, license, language, data
    best              {"metric", "step", "value"} of the step whose weights --keep_best left in the folder
    wall_seconds      wall time of the stage
    libraries         library -> version
    """

    base: str
    parents: dict[str, str]
    data: dict[str, dict]
    ended_early: dict
    stage: str
    hub: dict
    best: dict
    precision: str
    seed: int
    wall_seconds: float
    easyrlhf_version: str
    libraries: dict[str, str]


def facts(info: RunInfo) -> list[tuple[str, str]]:
    """The short entries as (name, text) rows for people, in reading order."""
    rows = [("base model", info["base"])] if "base" in info else []
    rows += [(role.replace("_", " "), folder) for role, folder in info.get("parents", {}).items() if folder]
    if early := info.get("ended_early"):
        rows.append((EARLY, f"after step {early['step']} of {early['of']}, by easyrlhf finish"))
    if best := info.get("best"):
        value = show(best["metric"], best["value"])
        rows.append((BEST, f"{best['step']}, with {best['metric']} at {value}; the weights are of that step"))
    if "wall_seconds" in info:
        rows.append(("wall time", duration(info["wall_seconds"])))
    rows += [(name, str(info[name])) for name in ("precision", "seed") if name in info]
    return rows


def versions(info: RunInfo) -> dict[str, str]:
    """Library versions, easyrlhf's own first."""
    own = {"easyrlhf": info["easyrlhf_version"]} if "easyrlhf_version" in info else {}
    return own | info.get("libraries", {})


def data_lines(summary: dict) -> list[str]:
    """One data set's files, its balance of rows, its lengths and what was noted."""
    lost = sum(summary["dropped"].values())
    lines = [", ".join(summary["files"])]
    lines.append(f"{summary['read']:,} rows read = {summary['used']:,} used + {lost:,} dropped")
    lines += [f"{count:,} dropped: {reason}" for reason, count in summary["dropped"].items()]
    for column, lengths in summary.get("lengths", {}).items():
        numbers = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        lines.append(f"tokens ({column}): {numbers}")
    return lines + [f"{count:,} {note}" for note, count in summary.get("notes", {}).items()]


def without_passwords(value: Any) -> Any:
    """A setting as others may read it: addresses without the name and password that may stand before their host."""
    return re.sub(r"(?<=://)[^/@\s,]+@", "…@", value) if isinstance(value, str) else value


def duration(seconds: float) -> str:
    """12.3 s, 4 min 05 s, or 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02} min" if hours else f"{minutes} min {rest:02} s"

"""easyrlhf rollouts: what an online run sampled, and what was thought of it; docs/online.md."""

import json
from collections.abc import Iterator
from pathlib import Path

from easyrlhf.config import RolloutsConfig
from easyrlhf.errors import InputError
from easyrlhf.report.console import one_line
from easyrlhf.report.rollout_rows import (
    ROLLOUTS_FILE,
    Row,
    extras,
    last_step,
    pick,
    rollout_prompt,
    row_marks,
    stored_rows,
)
from easyrlhf.report.transcript import said_lines
from easyrlhf.run.manifest import read_stage


def rollouts(config: RolloutsConfig) -> None:
    """Print rows of a run's rollouts.jsonl: of one step, or those that stand out.

    Raises InputError for a folder without such a file, or a step that is not in it.
    """
    path = Path(config.run) / ROLLOUTS_FILE
    last = last_step(path)
    if last is None:
        raise InputError(f"{config.run}: {why_nothing(Path(config.run), path)}")
    rows = list(rows_to_show(config, path, last))
    if not rows:
        raise InputError(nothing(config, path))
    for row in rows:
        print(json.dumps(row, ensure_ascii=False) if config.json else "\n".join(rollout_lines(row)))


def why_nothing(folder: Path, path: Path) -> str:
    """Why there is nothing to show of a folder."""
    stage = read_stage(folder).get("stage")
    if stage not in ("ppo", "grpo"):
        return "is not the output folder of an online run; give the --output_dir of ppo_train or grpo_train"
    what = f"{ROLLOUTS_FILE} is empty" if path.exists() else f"has no {ROLLOUTS_FILE}"
    return f"{what}; the run has logged no step yet, or was told --log_rollouts 0"


def rows_to_show(config: RolloutsConfig, path: Path, last: int) -> Iterator[Row]:
    """The rows to show: without a word about which, all of the last step."""
    order, count = config.order
    step = last if config.step is None and order is None else config.step
    rows = (row for row in stored_rows(path) if step is None or row["step"] == step)
    yield from rows if order is None else pick(rows, order, count)


def nothing(config: RolloutsConfig, path: Path) -> str:
    """Why there is no row of the step or the order that was asked for."""
    steps = [row["step"] for row in stored_rows(path)]
    if config.step is None or config.step in steps:
        return f"--furthest {config.furthest}: the reference was not asked for a KL of these completions (--measure_kl)"
    return f"--step {config.step}: is not in {path}, which has steps {min(steps)} to {max(steps)}"


def rollout_lines(row: Row) -> Iterator[str]:
    """A row for people, safe for a terminal."""
    yield f"step {row['step']} · {row['place']} · {row_marks(row)}"
    yield f"  ┌ {one_line(rollout_prompt(row))}"
    *lines, last = said_lines(row)
    if lines:  # an episode, a line for each thing that was said or done
        yield from (f"  │ {one_line(f'{who}: {text}')}" for who, text, _ in lines)
        yield f"  └ {one_line(f'{last.who}: {last.text}')}"
    else:
        yield f"  └ {one_line(last.text)}"
    yield from (f"    {one_line(extra)}" for extra in extras(row))

"""metrics.jsonl, samples.jsonl and rollouts.jsonl of a stage folder, mirrored to the trackers that are wanted."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from easyrlhf.files import write_whole
from easyrlhf.report.metrics import metric
from easyrlhf.report.rollout_rows import ROLLOUTS_FILE
from easyrlhf.report.trackers.chosen import Trackers
from easyrlhf.report.trackers.tracker import TrackedRun

METRICS_FILE, SAMPLES_FILE = "metrics.jsonl", "samples.jsonl"
LOGS = (METRICS_FILE, SAMPLES_FILE, ROLLOUTS_FILE)


def read_rows(path: Path) -> list[dict]:
    """The rows of a .jsonl file, in order; a half-written last line is passed over."""
    if not path.exists():
        return []
    rows = (_parse_row(line) for line in _lines(path))
    return [row for row in rows if row is not None]


class MetricsLog:
    """Writes the rows of one run; only the main process holds one.

    One JSON object a step, flushed: {"step": n, "loss": 0.25, …}. Numbers keep every digit (what is
    read back is the same float). JSON has no NaN or infinity: they are written as null.

    last_step  0 starts empty; n > 0 continues a run and cuts the files back to step <= n first
    report_to  names of trackers, or none
    about      what trackers are told of the run beside that: stage, settings, results, as TrackedRun has them
    say        (warn, note) of a console, for what is to be said of trackers
    """

    def __init__(
        self,
        folder: Path,
        *,
        last_step: int = 0,
        report_to: str = "tensorboard",
        about: dict | None = None,
        say: tuple[Callable[[str], None], Callable[[str], None]] = (print, print),
    ):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in LOGS:
            cut_back(folder / name, last_step or -1)
        self._path = folder / METRICS_FILE
        self._metrics = _append(self._path)
        self._samples_path, self._rollouts_path = folder / SAMPLES_FILE, folder / ROLLOUTS_FILE
        self._trackers = Trackers(report_to, TrackedRun(folder, last_step=last_step, **(about or {})), *say)

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Write the row of `step`; once a step, training and evaluation merged by the caller.

        KeyError when a name is not declared in METRICS; nothing is written then.
        """
        for name in metrics:
            metric(name)
        row = {name: _number(value) for name, value in metrics.items()}
        self._metrics.write(_row_line({"step": step} | row))
        self._metrics.flush()
        self._trackers.scalars(step, row)

    def rows(self) -> list[dict]:
        """The rows written so far, earlier sittings included."""
        return read_rows(self._path)

    def samples(self, step: int, rows: list[dict]) -> None:
        """Append sample rows of `step`: {"prompt", "completion", "score", "kl", "total", …}."""
        with _append(self._samples_path) as file:
            file.writelines(_row_line({"step": step} | row) for row in rows)
        self._trackers.samples(step, rows)

    def rollouts(self, step: int, rows: list[dict]) -> None:
        """Append what is kept of the step's rollout, once a step."""
        if rows:
            with _append(self._rollouts_path) as file:
                file.writelines(_row_line({"step": step} | row) for row in rows)

    def take_back(self, step: int) -> None:
        """Drop the row of the last step, to be logged again."""
        self._metrics.close()
        cut_back(self._path, step - 1)
        self._metrics = _append(self._path)

    def close(self, complete: bool = True) -> None:
        """Flush and close everything.

        complete  whether the run has done all of its steps; trackers show one that has not as such
        """
        self._metrics.close()
        self._trackers.close(complete)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self.close(complete=kind is None)


class SilentLog(MetricsLog):
    """The log of a process that writes none."""

    def __init__(self):
        pass

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Keep nothing."""

    def rows(self) -> list[dict]:
        """No rows."""
        return []

    def samples(self, step: int, rows: list[dict]) -> None:
        """Keep nothing."""

    def rollouts(self, step: int, rows: list[dict]) -> None:
        """Keep nothing."""

    def take_back(self, step: int) -> None:
        """There is none."""

    def close(self, complete: bool = True) -> None:
        """Close nothing."""


def cut_back(path: Path, last_step: int) -> None:
    """Keep the rows up to and including `last_step`; none when it is below 0.

    The rows kept are the bytes they were; a half-written line is dropped.
    """
    if not path.exists():
        return
    rows = ((line, _parse_row(line)) for line in (_lines(path) if last_step >= 0 else []))
    kept = [line + "\n" for line, row in rows if row is not None and row["step"] <= last_step]
    write_whole(path, "".join(kept), to_disk=True)


def amend(path: Path, step: int, metrics: dict[str, float]) -> None:
    """Put numbers into the row of a step; the others are the bytes they were. A half-written line is dropped."""
    rows = ((line, _parse_row(line)) for line in _lines(path))
    known = [(line, row) for line, row in rows if row is not None]
    amended = [_row_line(row | metrics) if row["step"] == step else line + "\n" for line, row in known]
    write_whole(path, "".join(amended), to_disk=True)


def set_aside(folder: Path, last_step: int) -> list[Path]:
    """Move rows of later steps than `last_step` out of a folder's logs, into files beside; returns these files."""
    made = []
    for name in LOGS:
        log = folder / name
        lines = _lines(log) if log.exists() else []
        later = [line for line in lines if (row := _parse_row(line)) is not None and row["step"] > last_step]
        if later:
            made.append(log.with_name(f"{log.stem}.after-{last_step}.jsonl"))
            made[-1].write_text("".join(line + "\n" for line in later), encoding="utf-8", errors="replace")
        cut_back(log, last_step)
    return made


def _number(value) -> int | float:
    """A Python number of any scalar (numpy's and torch's too)."""
    return value if isinstance(value, int) else float(value)


def _finite(value):
    """`value` with every NaN and infinity in it, however deep, replaced by None."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _append(path: Path):
    # backslashreplace: a lone surrogate becomes \udXXX, which is how JSON spells it
    return path.open("a", encoding="utf-8", errors="backslashreplace")


def _lines(path: Path) -> list[str]:
    # not splitlines: text may hold U+2028 and its like, which end no JSON line
    return path.read_text(encoding="utf-8", errors="replace").split("\n")


def _row_line(row: dict) -> str:
    return json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n"


def _parse_row(line: str) -> dict | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None

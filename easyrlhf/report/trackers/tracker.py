"""What a tracker is: one class over one library, which may raise whatever that library raises."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from easyrlhf.report.info import without_passwords

PROJECT = "easyrlhf"  # where a tracker groups runs, unless its own environment variable says otherwise


@dataclass(frozen=True)
class TrackedRun:
    """The run that trackers show.

    folder    its output folder
    stage     sft, rm, ppo…
    settings  its settings by name; those that are not set are None
    results   names of the metrics that runs of this stage are compared by
    last_step 0 for a new run; n > 0 continues one after that step
    """

    folder: Path
    stage: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    results: tuple[str, ...] = ()
    last_step: int = 0

    @property
    def given(self) -> dict[str, Any]:
        """The stage, and the settings that have a value."""
        values = {name: without_passwords(value) for name, value in self.settings.items() if value is not None}
        return {"stage": self.stage} | values

    def kept(self, tracker: str) -> Path:
        """The file that keeps by what name the tracker knows the run."""
        return self.folder / "runs" / f"{tracker}_id"

    def known(self, tracker: str) -> str | None:
        """By what name the tracker knows the run that is continued; None for a new one."""
        file = self.kept(tracker)
        return file.read_text().strip() if self.last_step and file.exists() else None

    def keep(self, tracker: str, name: str) -> None:
        """Remember by what name the tracker knows the run, for the time when it is continued."""
        file = self.kept(tracker)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)


class Tracker:
    """One tracker of one run, opened with its settings; a continued run goes on where it was.

    packages  distributions one of which brings the library
    where     how to look at the run, for the user; "" when that needs no words
    """

    packages: ClassVar[tuple[str, ...]]
    where: str = ""

    def __init__(self, run: TrackedRun):
        raise NotImplementedError

    @classmethod
    def check(cls) -> None:
        """Raise what the library raises when a run could not be opened now: no account, no server."""

    def scalars(self, step: int, row: dict[str, float]) -> None:
        """Take in the numbers of a step."""
        raise NotImplementedError

    def samples(self, step: int, rows: list[dict]) -> None:
        """Take in what a model wrote: {"prompt", "completion", "score", …} each."""
        raise NotImplementedError

    def close(self, complete: bool) -> None:
        """Write out what is still held back: the run is complete, or has stopped or failed and may go on later."""
        raise NotImplementedError


def as_markdown(rows: list[dict]) -> str:
    """Samples as Markdown in which nothing that a model wrote is markup: texts stand as indented blocks."""
    parts = []
    for number, row in enumerate(rows, 1):
        numbers = [f"{name} {value:+.3f}" for name, value in row.items() if isinstance(value, float)]
        parts.append(f"**{number}.** {' · '.join(numbers)}".rstrip())
        parts += [f"{name}:\n\n{_indented(text)}" for name, text in row.items() if isinstance(text, str)]
    return "\n\n".join(parts) + "\n"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines()) or "    "

"""A .jsonl file that grows step by step, so that the same command goes on where it was stopped; or standard output."""

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Any, TextIO

from easyrlhf.config.base import Settings
from easyrlhf.config.lists import split_list
from easyrlhf.errors import InputError
from easyrlhf.files import hold_file, write_whole
from easyrlhf.report.console import counting_bar
from easyrlhf.tools.resumable import append, beside, changed_settings, deciding_settings, read_record

# What may differ when a command goes on: where and how it is computed, not what.
FREE_TO_CHANGE = {"overwrite", "devices", "batch_size", "micro_batch_tokens", "allow_incomplete"}
FREE_TO_CHANGE |= {"environment_workers", "environment_timeout", "environment_concurrency"}
FREE_TO_CHANGE |= {"judge_url", "judge_key_env", "judge_workers", "judge_budget"}
MODELS = ("model", "adapter", "reward_model", "judge_dir")
INPUTS = ("prompts", "data")
REMEMBERED = ("data", "done", "total", "bytes", "tally", "settings")


class Output:
    """Rows on their way to a file: FILE.part until all are there, then FILE itself.

    FILE.run.json says how far the part is; what lies behind that, such as half a row, is cut off.

    done      inputs (prompts, rows) that are dealt with
    total     inputs there are
    tally     what was counted and summed up over those done
    bad_rows  file for rows that are dropped
    defaults  what settings are that an older record does not have
    """

    def __init__(self, file: Path, settings: dict[str, Any], defaults: dict[str, Any]):
        self.file, self.defaults = file, defaults
        self.part, self.record = beside(file, "part"), beside(file, "run.json")
        self.bad_rows = beside(file, "bad_rows.jsonl")
        self.settings = settings
        self.bytes = self.done = self.total = 0
        self.data = ""
        self.tally: Counter = Counter()
        self._advance: Callable[[int], None] = lambda count: None

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.data) and self.done == self.total

    def begin(self, data: str, total: int) -> None:
        """Take back what an earlier sitting wrote, or start with nothing.

        data   SHA-256 of the inputs
        total  how many there are
        Raises InputError when the inputs have changed since.
        """
        if self.data not in ("", data):
            raise InputError(
                f"--output {self.file}: the data have changed since this was begun; put them back, give another "
                "--output, or --overwrite to begin anew"
            )
        if self.complete:
            return
        self.data, self.total = data, total
        self.part.touch()
        os.truncate(self.part, self.bytes)
        self._remember()

    def write(self, rows: list[dict[str, Any]], inputs: int) -> None:
        """Add the rows that so many more inputs gave; on disk when this returns. Raises RunError when it is full."""
        lines = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows).encode()
        append(self.part, lines)
        self.bytes += len(lines)
        self.done += inputs
        self._remember()
        self._advance(inputs)

    @contextmanager
    def progress(self, unit: str) -> Iterator[None]:
        """A bar that follows `write`, of so many units as there are inputs."""
        with counting_bar(unit, self.total, self.done) as self._advance:
            yield

    def finish(self) -> None:
        """Put the file in its place, once every input is dealt with."""
        if self.part.exists():
            os.replace(self.part, self.file)

    def take_back(self, known: dict[str, Any]) -> None:
        """Go on from what FILE.run.json says."""
        self.bytes, self.done, self.total, self.data = (known[key] for key in ("bytes", "done", "total", "data"))
        self.tally = Counter(known["tally"])

    def _remember(self) -> None:
        write_whole(self.record, json.dumps({key: getattr(self, key) for key in REMEMBERED}, indent=1) + "\n")


class Printed:
    """Rows on their way to standard output, as they come: nothing is kept, so that nothing can go on.

    out  where they go; whatever else is printed meanwhile goes to standard error
    """

    file, bad_rows, complete = "standard output", None, False

    def __init__(self, out: TextIO):
        self.out = out
        self.done = self.total = 0
        self.tally: Counter = Counter()

    def begin(self, data: str, total: int) -> None:
        """As Output's; the inputs are always new."""
        self.total = total

    def write(self, rows: list[dict[str, Any]], inputs: int) -> None:
        """Print the rows that so many more inputs gave."""
        for row in rows:
            self.print_line(json.dumps(row, ensure_ascii=False, default=str))
        self.done += inputs

    def print_line(self, line: str) -> None:
        """Print a line at once."""
        print(line, file=self.out, flush=True)

    def progress(self, unit: str) -> AbstractContextManager[None]:
        """Nothing: the rows show how far it is."""
        return nullcontext()

    def finish(self) -> None:
        """Nothing."""


def printable(text: str) -> str:
    """A text as it may be printed: what would control the terminal is �."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


@contextmanager
def open_output(config: Settings) -> Iterator[Output | Printed]:
    """Claim the file of `config.output` for this process, and know how far it is; or keep standard output for rows.

    Raises InputError when the file is not ours to go on with: written by something else or with other settings,
    in use, or not writable.
    """
    if config.output in (None, "-"):
        printed = Printed(sys.stdout)
        with redirect_stdout(sys.stderr):
            yield printed
        return
    file = Path(config.output)
    models = {name: config.value(name) for name in MODELS}
    defaults = {setting.name: setting.default for setting in fields(config)}
    output = Output(file, deciding_settings(config, FREE_TO_CHANGE, models), defaults)
    with ExitStack() as stack:
        taken = f"--output {file}: another command is writing it; wait for it, or give another file"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold_file(beside(file, "lock"), taken))
        except OSError as error:
            raise InputError(f"--output {file}: cannot be written ({error.strerror}); give another file") from error
        claim_output(output, config.overwrite)
        yield output


def claim_output(output: Output, overwrite: bool) -> None:
    """Decide whether the file is new, unfinished or complete. Raises InputError when it is taken."""
    for name in INPUTS:
        if output.file.resolve() in [Path(item).resolve() for item in split_list(output.settings.get(name))]:
            raise InputError(f"--output {output.file}: is also --{name}, which it would replace; give another file")
    if overwrite:
        return
    known = read_record(output.record, REMEMBERED, "delete it, or give another --output")
    complete = bool(known) and known["done"] == known["total"] and output.file.exists()
    if not (complete or (known and output.part.exists())):
        if output.file.exists():
            raise InputError(
                f"--output {output.file}: exists, and this command did not write it; give another file, or "
                "--overwrite to replace it"
            )
        return
    then, now = output.defaults | known["settings"], output.settings  # it may be older than a setting
    names = [name for name in now if then.get(name) != now[name]]
    if names:
        raise changed_settings(f"--output {output.file}", "file", then, now, names)
    if output.part.exists() and output.part.stat().st_size < known["bytes"]:
        raise InputError(f"{output.part}: is shorter than when it was written; --overwrite begins anew")
    output.take_back(known)

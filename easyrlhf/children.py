"""The processes of a run at work: signals passed on to them, the wait for them, and the one error they end with."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from easyrlhf.errors import EasyRLHFError, InputError, RunError, RunStopped
from easyrlhf.stopping import insisting, stop_signals

GRACE = 30.0  # seconds for the others to end by themselves after one failed or a stop was asked for twice
POLL = 0.1
SHOWN_LINES = 30


@dataclass(frozen=True)
class Ended:
    """How the processes of this node ended.

    number  of the first that failed, from 0 on this node
    codes   exit codes, negative for a signal
    asked   signals that we were sent, and passed on
    """

    number: int
    codes: tuple[int, ...]
    asked: tuple[int, ...]

    @property
    def code(self) -> int:
        """Exit code of the first that failed; 0 when none did."""
        return self.codes[self.number]


@contextmanager
def signals_passed_on(children: list[subprocess.Popen]) -> Iterator[list[int]]:
    """Pass SIGTERM, SIGINT and SIGHUP on to the children for a while; yields the list of those that came."""
    asked: list[int] = []

    def pass_on(number: int, _frame: Any) -> None:
        asked.append(number)
        send(children, number)

    ours = threading.current_thread() is threading.main_thread()  # the only thread that may set handlers
    caught = stop_signals() if ours else ()
    previous = {number: signal.signal(number, pass_on) for number in caught}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def send(children: list[subprocess.Popen], number: int) -> None:
    """Send a signal to those that still run."""
    for child in children:
        if child.poll() is None:
            child.send_signal(number)


def watch(children: list[subprocess.Popen], asked: list[int]) -> Ended:
    """Wait for all; returns how they ended.

    After a failure, or a second signal, those that are left get a while to end by themselves, then are killed.

    asked  the signals that were passed on; it grows
    """
    ending: float | None = None
    failed: int | None = None
    try:
        while any(child.poll() is None for child in children):
            failed = first_failed(children) if failed is None else failed
            if ending is None and (failed is not None or len(insisting(asked)) > 1):
                ending = time.monotonic()
            if ending is not None and time.monotonic() - ending > GRACE:
                send(children, signal.SIGKILL)
            time.sleep(POLL)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
    failed = first_failed(children) if failed is None else failed
    return Ended(failed or 0, tuple(child.returncode for child in children), tuple(asked))


def first_failed(children: list[subprocess.Popen]) -> int | None:
    """Number of the one that failed: who was killed is the cause, who failed in the same moment has lost it."""
    codes = {number: child.poll() for number, child in enumerate(children) if child.poll()}
    return min(codes, key=codes.__getitem__, default=None)


def write_error_note(folder: Path, error: EasyRLHFError) -> None:
    """In a process of a run, leave the launcher a note of the error it ends with; the launcher shows it."""
    rank = int(os.environ["RANK"])
    note = {"message": str(error), "code": error.exit_code, "shown_by": error.shown_by}
    (folder / f"{rank}.json").write_text(json.dumps(note))


def run_failure(ended: Ended, first: int, folder: Path, logs: Path) -> EasyRLHFError:
    """The one error to raise for a run that failed, from what its processes of this node say.

    first   rank of this node's first process
    folder  with the notes that `tell` left
    """
    rank = first + ended.number
    if ended.code < 0 and -ended.code in ended.asked:
        return RunStopped(
            f"{signal.Signals(-ended.code).name} received while nothing was trained; nothing was lost. The same "
            "command starts or continues the run"
        )
    if ended.code < 0:
        return RunError(
            f"process {rank} was ended by {signal.Signals(-ended.code).name}, so the others were too. The same command "
            f"goes on from the newest checkpoint, if one was written. Logs of the others: {logs}"
        )
    notes = {int(file.stem): json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    without = [first + number for number, code in enumerate(ended.codes) if code > 0 and first + number not in notes]
    # Its own error comes before one that it heard of, and that before the loss of the others.
    ranks = sorted(notes, key=lambda one: (notes[one]["shown_by"] is None, notes[one]["shown_by"] != one, one != rank))
    if without and (not ranks or notes[ranks[0]]["shown_by"] is None):
        return unexpected(without[0], ended.codes[without[0] - first], logs)
    note = notes[ranks[0]]
    return {InputError.exit_code: InputError, RunStopped.exit_code: RunStopped}.get(note["code"], RunError)(
        note["message"]
    )


def unexpected(rank: int, code: int, logs: Path) -> EasyRLHFError:
    """The error of a process that ended without a note: what it said last, which of the main one has been seen."""
    found = EasyRLHFError("")
    found.shown_by = None
    if rank:
        log = logs / f"rank-{rank}.log"
        lines = log.read_text(errors="replace").splitlines()[-SHOWN_LINES:]
        found = EasyRLHFError("\n".join([f"process {rank} failed; the end of {log}:", *lines]))
    found.exit_code = code
    return found

"""One process of a run, as launch.py starts it: `python -m easyrlhf.cli.worker_process TARGET CONFIG FOLDER`."""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import easyrlhf.config
from easyrlhf.children import POLL, write_error_note
from easyrlhf.cli.exit_codes import Job, job, run_and_exit
from easyrlhf.cli.options import build_config
from easyrlhf.errors import EasyRLHFError
from easyrlhf.launch import SETTINGS


def main() -> None:
    """Read the settings, run the stage, leave with its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until training begins it ends us as SIGTERM does
    if sys.platform != "linux":
        threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    target, name, folder = sys.argv[1:]
    config = build_config(getattr(easyrlhf.config, name), str(Path(folder) / SETTINGS), {}, "easyrlhf")
    run_and_exit(lambda: telling(Path(folder), job(target, config)))


def end_with(parent: int) -> None:
    """Kill this process once its parent is gone."""
    while os.getppid() == parent:
        time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGKILL)


def telling(folder: Path, work: Job) -> Job:
    """The work, whose error is told to the launcher, which shows it; here only a log gets it, where it is our own."""

    def run() -> Any:
        try:
            return work()
        except EasyRLHFError as error:
            write_error_note(folder, error)
            rank = int(os.environ["RANK"])
            error.shown_by = rank if rank and error.shown_by in (rank, None) else None
            raise

    return run


if __name__ == "__main__":
    main()

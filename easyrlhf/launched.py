"""One process of a run, as launch.py starts it: `python -m easyrlhf.launched MODULE:FUNCTION CONFIG FOLDER`."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import easyrlhf.config
from easyrlhf.cli.options import build_config
from easyrlhf.cli.running import Job, job, run_and_exit
from easyrlhf.errors import EasyRLHFError
from easyrlhf.launch import SETTINGS, tell


def main() -> None:
    """Read the settings, run the stage, leave with its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until training begins it ends us as SIGTERM does
    target, name, folder = sys.argv[1:]
    config = build_config(getattr(easyrlhf.config, name), str(Path(folder) / SETTINGS), {}, "easyrlhf")
    run_and_exit(lambda: telling(Path(folder), job(target, config)))


def telling(folder: Path, work: Job) -> Job:
    """The work, whose error is told to the launcher, which shows it; here only a log gets it, where it is our own."""

    def run() -> Any:
        try:
            return work()
        except EasyRLHFError as error:
            tell(folder, error)
            rank = int(os.environ["RANK"])
            error.shown_by = rank if rank and error.shown_by in (rank, None) else None
            raise

    return run


if __name__ == "__main__":
    main()

"""Runs tests of a project over and over, importing the libraries once: every run is a fork of this process.

python tests/mutations/pytest_server.py FOLDER

A line of tests on stdin, paths below the folder's tests/ with spaces between, is answered on stdout by the exit code of
pytest, or minus the signal that ended it. The package itself is imported by each fork, from the folder as it is then.
"""

import gc
import os
import signal
import sys

import _hypothesis_pytestplugin  # noqa: F401
import click  # noqa: F401
import datasets  # noqa: F401
import hypothesis  # noqa: F401
import jsonlines  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import peft  # noqa: F401
import pytest
import pytest_timeout  # noqa: F401
import requests  # noqa: F401
import torch
import transformers.models.auto.modeling_auto
import transformers.models.llama.modeling_llama  # noqa: F401

PATIENCE = 500  # seconds until a run is ended: a break may loop for ever
# anyio's plugin takes longer to import than most of these runs do
OPTIONS = ["-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:anyio"]


def exit_code(tests: list[str]) -> int:
    """Exit code of pytest on these tests, in a fork that says nothing."""
    child = os.fork()
    if child == 0:
        signal.alarm(PATIENCE)
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silence, stream)
        os._exit(int(pytest.main([*OPTIONS, *tests])))
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def main(folder: str) -> None:
    """Answer line by line until stdin ends."""
    os.chdir(folder)
    sys.path[0] = folder  # in place of this script's folder
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)  # threads do not survive a fork
    gc.collect()
    gc.freeze()  # the libraries' objects outlive every run: no run has to walk through them
    for line in sys.stdin:
        print(exit_code([f"tests/{test}" for test in line.split()]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

"""Runs commands in forks of one process that has imported the libraries: to import them takes longer than a tiny run.

This package is no such library: every fork imports it anew, from where the command is run or else from where it is
installed.

In a folder of its own: load_module puts that on sys.path, and in tests/ the folder vllm would pass for the library.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

LIBRARIES = (
    "click",
    "datasets",
    "jsonlines",
    "matplotlib.pyplot",
    "peft",
    "requests",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
)


class ForkServer:
    """The process with the libraries, until `close`.

    more         modules to import besides
    environment  variables that the libraries read when they are imported
    """

    def __init__(self, *more: str, **environment: str):
        words = [sys.executable, "-P", __file__, *LIBRARIES, *more]
        own = os.environ | {"OMP_NUM_THREADS": "1"} | environment
        self.process = subprocess.Popen(words, env=own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(
        self,
        words: Sequence[str | Path],
        folder: Path,
        environments: Sequence[dict[str, str]] = ({},),
        output: str = os.devnull,
        seconds: int = 300,
    ) -> list[int]:
        """Run a script of this Python's, or a file, in a folder, once for each of the environments, all at a time.

        Returns the exit codes, minus the signal that ended one. When one fails the others are killed, and all of them
        are after so many seconds.

        output  file that gets whatever they say
        """
        request = {"words": [str(word) for word in words], "folder": str(folder), "environments": list(environments)}
        self.process.stdin.write(json.dumps(request | {"output": output, "seconds": seconds}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def begin(environment: dict[str, str], words: list[str], folder: str, output: str, seconds: int) -> int:
    """Number of a fork that runs the command."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.alarm(seconds)
        os.environ.update(environment)
        os.chdir(folder)
        sys.path.insert(0, folder)
        written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, written), (2, written)):
            os.dup2(file, stream)
        sys.argv = words
        runpy.run_path(str(Path(sys.executable).parent / words[0]), run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def exit_codes(children: list[int]) -> list[int]:
    """Wait for the forks."""
    codes: dict[int, int] = {}
    while len(codes) < len(children):
        child, status = os.wait()
        codes[child] = os.waitstatus_to_exitcode(status)
        for other in children if codes[child] else ():
            if other not in codes:
                os.kill(other, signal.SIGKILL)
    return [codes[child] for child in children]


def serve(libraries: list[str]) -> None:
    """Answer line by line until stdin ends."""
    for name in libraries:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)  # threads do not survive a fork
    gc.collect()
    gc.freeze()  # the libraries' objects outlive every run: no run has to walk through them
    for line in sys.stdin:
        request = json.loads(line)
        environments = request.pop("environments")
        print(json.dumps(exit_codes([begin(one, **request) for one in environments])), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1:])

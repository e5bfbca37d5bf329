"""Commands in several processes on the CPU, and the tiny chain of tests/stages for them to learn from."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from easyrlhf.userfile import load_module

stages = load_module(Path(__file__).parents[1] / "stages" / "conftest.py")
data, chain, reference_cache = stages.data, stages.chain, stages.reference_cache
CLOCK = ("time/", "tokens_per_second")
PATIENCE = 180.0  # seconds for anything that a busy machine may take its time for


class Command:
    """A command at work, its processes, and what it says.

    home  folder of its temporary files, by which all of its processes are known
    """

    def __init__(self, words: list[str], home: Path, **environment: str):
        home.mkdir()
        self.home, self.out_file, self.err_file = home, home / "out.txt", home / "err.txt"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(home)} | environment
        with self.out_file.open("w") as out, self.err_file.open("w") as err:
            self.process = subprocess.Popen(words, env=environment, stdout=out, stderr=err)

    @property
    def out(self) -> str:
        """What went to stdout."""
        return self.out_file.read_text()

    @property
    def err(self) -> str:
        """What went to stderr."""
        return self.err_file.read_text()

    @property
    def code(self) -> int | None:
        """The exit code; None while the command runs."""
        return self.process.poll()

    def processes(self) -> dict[int, dict[str, str]]:
        """Number and environment of every process that the command has started and that still lives."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
                environment = dict(word.split("=", 1) for word in words if "=" in word)
                if environment.get("TMPDIR") == str(self.home) and int(folder.name) != self.process.pid:
                    found[int(folder.name)] = environment
        return found

    def rank(self, number: int) -> int:
        """The process that is rank `number` of the run."""
        return min(pid for pid, environment in self.processes().items() if environment.get("RANK") == str(number))

    def wait(self, seconds: float = PATIENCE) -> int:
        """The exit code, once there is one."""
        return self.process.wait(seconds)

    def wait_for_step(self, folder: Path, step: int) -> None:
        """Wait until the run in a folder has logged this step."""
        deadline, log = time.monotonic() + PATIENCE, folder / "metrics.jsonl"
        while self.code is None and time.monotonic() < deadline:
            if log.exists() and log.read_text().count("\n") >= step:
                return
            time.sleep(0.01)
        raise AssertionError(f"the run ended or hung before step {step}: {self.code}\n{self.out}\n{self.err}")

    def pause(self) -> None:
        """Let every rank stand still."""
        for pid in self.processes():
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let every rank work again."""
        for pid in self.processes():
            os.kill(pid, signal.SIGCONT)

    def wait_until_alone(self, seconds: float) -> None:
        """Wait until none of its processes is left."""
        deadline = time.monotonic() + seconds
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not self.processes()

    def end(self) -> None:
        """Kill whatever is left."""
        for pid in [*self.processes(), self.process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def start(home: Path, stage: str, environment: dict[str, str] | None = None, **settings) -> Command:
    """The command of a stage with these settings."""
    words = [sys.executable, "-c", f"from easyrlhf.cli.stages import {stage}_train; {stage}_train()"]
    words += [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return Command(words, home, **(environment or {}))


@pytest.fixture
def launch(tmp_path):
    """launch(stage, environment=None, **settings) -> the Command, which no test outlives."""
    commands = []

    def begin(stage: str, environment: dict[str, str] | None = None, **settings) -> Command:
        commands.append(start(tmp_path / f"command-{len(commands)}", stage, environment, **settings))
        return commands[-1]

    yield begin
    for command in commands:
        command.end()


def numbers(folder: str | Path) -> list[dict]:
    """The rows of metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(CLOCK)} for row in rows]

"""T1: how long a command takes to explain itself, to refuse an input, to begin; and the package to be imported."""

import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from easyrlhf.cli.main import COMMANDS
from speed.measure import Options
from speed.results import Result
from speed.turns import timed

TOY = Path(__file__).resolve().parents[2] / "data" / "toy"
ROWS = ["--train_data", str(TOY / "sft.jsonl.gz"), "--report_to", "none", "--devices", "cpu"]


def seconds(command: list[str], times: int, code: int = 0) -> float:
    """Median wall seconds of a command that ends with this exit code."""

    def run() -> None:
        ended = subprocess.run(command, capture_output=True).returncode
        if ended != code:
            raise RuntimeError(f"{' '.join(command)} ended with {ended}")

    return median(timed(run).seconds for _ in range(times))


def cpu_seconds_of_two_steps(program: str) -> float:
    """CPU seconds of a whole sft_train of two steps from a tiny model: what a start costs."""
    with TemporaryDirectory() as folder:
        model, result = f"{folder}/init", f"{folder}/sft"
        subprocess.run([program, "init", *ROWS[:2], "--output_dir", model], check=True, capture_output=True)
        before = os.times()
        command = [program, "sft", "--model", model, *ROWS, "--output_dir", result, "--max_steps", "2"]
        subprocess.run(command, check=True, capture_output=True)
        after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def t1(options: Options) -> list[Result]:
    """The slowest --help of all commands, `import easyrlhf`, the first word about a wrong input, a start."""
    program = str(Path(sys.executable).parent / "easyrlhf")
    helps = {name: seconds([program, name, "--help"], 3) for name in COMMANDS}
    slowest = max(helps, key=helps.__getitem__)
    imported = seconds([sys.executable, "-c", "import easyrlhf"], options.pairs)
    refused = seconds([program, "sft", "--model", "./none", *ROWS], options.pairs, code=2)
    limits = {"judged": "ours", "at_most": True, "dtype": ""}
    return [
        Result(f"slowest --help of {len(helps)} commands: {slowest}", "s", helps[slowest], 0.5, **limits),
        Result("import easyrlhf", "s", imported, 0.3, **limits),
        Result("sft refuses a model that is not there", "s", refused, 1, **limits),
        Result("sft of two steps, CPU", "s", cpu_seconds_of_two_steps(program), 4, **limits),
    ]

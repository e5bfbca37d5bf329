"""T1: how long a command takes to explain itself, and the package to be imported."""

import subprocess
import sys
from pathlib import Path
from statistics import median

from easyrlhf.cli.main import COMMANDS
from speed.measure import Options
from speed.results import Result
from speed.turns import timed


def seconds(command: list[str], times: int) -> float:
    """Median wall seconds of a command."""
    laps = (timed(lambda: subprocess.run(command, check=True, capture_output=True).returncode) for _ in range(times))
    return median(lap.seconds for lap in laps)


def t1(options: Options) -> list[Result]:
    """The slowest --help of all commands, and `import easyrlhf`."""
    program = str(Path(sys.executable).parent / "easyrlhf")
    helps = {name: seconds([program, name, "--help"], 3) for name in COMMANDS}
    slowest = max(helps, key=helps.__getitem__)
    imported = seconds([sys.executable, "-c", "import easyrlhf"], options.pairs)
    limits = {"judged": "ours", "at_most": True, "dtype": ""}
    return [
        Result(f"slowest --help of {len(helps)} commands: {slowest}", "s", helps[slowest], 0.5, **limits),
        Result("import easyrlhf", "s", imported, 0.3, **limits),
    ]

"""Speed and memory of easyrlhf beside TRL and transformers, as one table of ratios.

    python benchmarks/run.py
    python benchmarks/run.py --only P1,S1

Each measure runs in a process of its own. In it the two sides first have to compute the same numbers from the same rows
and weights; then they take turns, step by step, and the median of the ratios of neighbouring steps is what counts: the
absolute figures are those of this machine at this moment. Our side is the stages' own code; the other is given its best
settings. About half an hour on one free core.

The peer of PPO is the last TRL that had a PPOTrainer; it is installed apart and found by --trl_ppo:

    pip install --no-deps --target outputs/trl-1.12.0 trl==1.12.0
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import click
from speed.measures import MEASURES, run_measure
from speed.results import HEADER, Result, cells, line

HERE = Path(__file__).parent


@click.command(help=__doc__)
@click.option("--only", default=",".join(MEASURES), show_default=True, help="Measures, separated by commas.")
@click.option("--size", type=click.Choice(["m9", "60m"]), default="m9", show_default=True, help="Of the model.")
@click.option("--pairs", default=5, show_default=True, help="Pairs of steps that count, after one to warm up.")
@click.option("--threads", type=int, help="CPU threads of every measure.  [default: each measure's own]")
@click.option("--trl_ppo", default="outputs/trl-1.12.0", show_default=True, help="Folder of trl 1.12.0.")
@click.option("--here", is_flag=True, hidden=True)
def main(only: str, size: str, pairs: int, threads: int | None, trl_ppo: str, here: bool):
    """Run the measures one after another; print a line of the table for each result."""
    names = [name.strip() for name in only.split(",")]
    if unknown := [name for name in names if name not in MEASURES]:
        raise click.UsageError(f"--only {unknown[0]}: is no measure; there are {', '.join(MEASURES)}")
    if here:
        for result in run_measure(names[0], size, pairs):
            click.echo(json.dumps(asdict(result)))
        return
    click.echo(HEADER + "\n" + "|---" * (HEADER.count("|") - 1) + "|")
    failed = [name for name in names if not measured(name, size, pairs, threads, trl_ppo)]
    if failed:
        raise click.ClickException(f"not measured: {', '.join(failed)}")


def measured(name: str, size: str, pairs: int, threads: int | None, trl_ppo: str) -> bool:
    """Run one measure in a process of its own for each number of threads; print its lines. False when it failed."""
    command, whole = [sys.executable, __file__, "--only", name, "--size", size, "--pairs", str(pairs), "--here"], True
    for count in [threads] if threads else MEASURES[name].threads:
        with tempfile.TemporaryDirectory() as cache:
            environment = os.environ | {"OMP_NUM_THREADS": str(count), "EASYRLHF_CACHE": cache}
            environment["PYTHONPATH"] = os.pathsep.join(places(name, trl_ppo))
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        whole = whole and done.returncode == 0
        for found in done.stdout.splitlines():
            if found.startswith("{"):
                click.echo(line(cells(name, Result(**json.loads(found)))))
    return whole


def places(name: str, trl_ppo: str) -> list[str]:
    """Where a measure's process looks for modules before all else. Raises ClickException when its peer is not there."""
    found = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    if not MEASURES[name].needs_ppo_peer:
        return found
    if not (Path(trl_ppo) / "trl" / "experimental" / "ppo").is_dir():
        raise click.ClickException(
            f"--trl_ppo {trl_ppo}: trl 1.12.0 is not there, and {name} needs it; install it with\n"
            f"    pip install --no-deps --target {trl_ppo} trl==1.12.0"
        )
    return [str(Path(trl_ppo).resolve()), *found]


if __name__ == "__main__":
    main()

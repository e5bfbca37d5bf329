"""Speed and memory of easyrlhf beside TRL and transformers, as one table of ratios.

    python benchmarks/run.py
    python benchmarks/run.py --only P1,S1
    python benchmarks/run.py --device cuda --size 0.5b

Each measure runs in a process of its own. In it the two sides first have to compute the same numbers from the same rows
and weights; then they take turns, step by step, and the median of the ratios of neighbouring steps is what counts: the
absolute figures are those of this machine at this moment. Our side is the stages' own code; the other is given its best
settings. About half an hour on one free core.

On a GPU both sides compute in bf16, every clock waits for the GPU, and a row says what memory a step takes. The
utilisation column is the share of the speed of a matrix product in the same process. Targets are those of the CPU.

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
from speed.measures import MEASURES, measures_on, run_measure
from speed.results import HEADER, Result, cells, line

HERE = Path(__file__).parent
DEFAULT_SIZES = {"cpu": "m9", "cuda": "0.5b"}


@click.command(help=__doc__)
@click.option("--only", help="Measures, separated by commas.  [default: all that the device has]")
@click.option(
    "--device", type=click.Choice(list(DEFAULT_SIZES)), default="cpu", show_default=True, help="Of both sides."
)
@click.option(
    "--size",
    type=click.Choice(["m9", "60m", "0.5b", "1.5b"]),
    help="Of the model.  [default: m9; 0.5b with --device cuda]",
)
@click.option("--pairs", default=5, show_default=True, help="Pairs of steps that count, after one to warm up.")
@click.option(
    "--lengths",
    type=click.Choice(["skewed", "flat"]),
    default="skewed",
    show_default=True,
    help="Of demonstrations (skewed: log-normal, up to 512 tokens) and comparisons (skewed: within 30 % of the mean); "
    "flat: all the mean. S, R, D and K look at it, no other measure does.",
)
@click.option("--threads", type=int, help="CPU threads of every measure.  [default: each measure's own]")
@click.option("--trl_ppo", default="outputs/trl-1.12.0", show_default=True, help="Folder of trl 1.12.0.")
@click.option("--here", is_flag=True, hidden=True)
def main(only: str | None, device: str, size: str | None, threads: int | None, trl_ppo: str, here: bool, **asked):
    """Run the measures one after another; print a line of the table for each result."""
    names, asked = chosen(only, device), asked | {"device": device, "size": size or DEFAULT_SIZES[device]}
    require(device)
    if here:
        for result in run_measure(names[0], **asked):
            click.echo(json.dumps(asdict(result)))
        return
    click.echo(HEADER + "\n" + "|---" * (HEADER.count("|") - 1) + "|")
    failed = [name for name in names if not measured(name, asked, threads, trl_ppo)]
    if failed:
        raise click.ClickException(f"not measured: {', '.join(failed)}")


def chosen(only: str | None, device: str) -> list[str]:
    """The measures to be made. Raises UsageError when there is no such one, or none on this device."""
    there = measures_on(device)
    names = [name.strip() for name in only.split(",")] if only else there
    for name in names:
        if name not in MEASURES:
            raise click.UsageError(f"--only {name}: is no measure; there are {', '.join(MEASURES)}")
        if name not in there:
            raise click.UsageError(f"--only {name}: is measured on a CPU; with --device {device}: {', '.join(there)}")
    return names


def require(device: str) -> None:
    """Raise UsageError unless the device is there."""
    if device == "cpu":
        return
    import torch

    if not torch.cuda.is_available():
        raise click.UsageError(
            f"--device {device}: torch sees no GPU here; measure on a machine with one and a torch built for CUDA, or "
            "leave --device away for the CPU"
        )


def measured(name: str, asked: dict, threads: int | None, trl_ppo: str) -> bool:
    """Run one measure in a process of its own for each number of threads; print its lines. False when it failed."""
    flags = [word for key, value in asked.items() for word in (f"--{key}", str(value))]
    command, whole = [sys.executable, __file__, "--only", name, *flags, "--here"], True
    for count in thread_counts(name, asked["device"], threads):
        with tempfile.TemporaryDirectory() as cache:
            environment = os.environ | {"OMP_NUM_THREADS": str(count), "EASYRLHF_CACHE": cache}
            environment["PYTHONPATH"] = os.pathsep.join(places(name, trl_ppo))
            environment["CUDA_VISIBLE_DEVICES"] = visible(asked["device"])
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        whole = whole and done.returncode == 0
        for found in done.stdout.splitlines():
            if found.startswith("{"):
                click.echo(line(cells(name, Result(**json.loads(found)))))
    return whole


def thread_counts(name: str, device: str, threads: int | None) -> tuple[int, ...]:
    """Numbers of CPU threads that a measure is made with, one process each; on a GPU they are no part of it."""
    if threads:
        return (threads,)
    return MEASURES[name].threads[:1] if device == "cuda" else MEASURES[name].threads


def visible(device: str) -> str:
    """GPUs that a measure's process may see: the first, as a peer would spread itself over all; none for the CPU."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0] if device == "cuda" else ""


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

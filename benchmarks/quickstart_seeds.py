"""The quickstart over several seeds, as a table: does PPO beat SFT every time, and at what distance?

    python benchmarks/quickstart_seeds.py --seeds 101,102,103,104,105

Each seed is a whole quickstart (minutes each, one after the other) in outputs/seeds/N; finished ones are reused.
"""

import json
import subprocess
from pathlib import Path

import click

COLUMNS = (
    ("RM accuracy", ("rm_accuracy",)),
    ("ceiling", ("rm_accuracy_ceiling",)),
    ("gold SFT", ("gold_sft",)),
    ("gold PPO", ("gold_ppo",)),
    ("correct SFT", ("correct_sft", "sampled")),
    ("correct PPO", ("correct_ppo", "sampled")),
    ("greedy SFT", ("correct_sft", "greedy")),
    ("greedy PPO", ("correct_ppo", "greedy")),
    ("KL", ("kl_ppo",)),
)


@click.command(help=__doc__)
@click.option("--seeds", default="101,102,103,104,105", show_default=True)
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/seeds", show_default=True)
def main(seeds: str, output_dir: Path):
    """Run what is missing, print the table."""
    print(header())
    for seed in seeds.split(","):
        folder = output_dir / seed
        if not (folder / "summary.json").exists():
            command = ["scripts/quickstart.sh", "--seed", seed, "--output_dir", str(folder)]
            log = folder.with_suffix(".log")
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("w") as out:
                subprocess.run(command, check=True, stdout=out, stderr=subprocess.STDOUT)
        print(row(json.loads((folder / "summary.json").read_text())), flush=True)


def header() -> str:
    """The table's first two lines, in Markdown."""
    names = ["seed", *(name for name, _ in COLUMNS), "EOS", "intervals apart", "seconds"]
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def row(summary: dict) -> str:
    """One seed's numbers: mean ± half of the 95 % interval."""
    cells = [str(summary["seed"])]
    for _, path in COLUMNS:
        number = summary
        for key in path:
            number = number[key]
        low, high = number["ci95"]
        cells.append(f"{number['mean']:.3f} ± {(high - low) / 2:.3f}")
    apart = summary["gold_ppo"]["ci95"][0] > summary["gold_sft"]["ci95"][1]
    cells += [f"{summary['eos_rate_ppo']:.3f}", "yes" if apart else "no", f"{sum(summary['seconds'].values()):.0f}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

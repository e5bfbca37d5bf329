"""What a biased reward model does to PPO without a price on KL, and what the default price prevents.

    python benchmarks/overoptimisation.py --quickstart outputs/quickstart

Trains a reward model on comparisons_biased.jsonl.gz, then PPO against it twice with the same learning rate and updates:
kl_coef 0, and the recipe's. The gold judge watches with weight 0. Prints both runs every few rollouts, and the verdicts
that fired; report.html of each run shows reward model and judge against KL.
"""

import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np

from easyrlhf.report.diagnostics import verdicts

WINDOW = 6  # rollouts averaged in a line of the table


@click.command(help=__doc__)
@click.option("--quickstart", type=click.Path(path_type=Path), default="outputs/quickstart", show_default=True)
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/overoptimisation", show_default=True)
@click.option("--episodes", default=12288, show_default=True, help="Completions sampled in each run.")
@click.option("--seed", default=42, show_default=True)
def main(quickstart: Path, output_dir: Path, episodes: int, seed: int):
    """Train what is missing and print the tables."""
    rm = {"train_data": "data/toy/comparisons_biased.jsonl.gz", "model": quickstart / "sft"}
    train("rm_train", "toy_rm", rm | {"output_dir": output_dir / "rm", "seed": seed})
    shared = {"model": quickstart / "sft", "reward_model": output_dir / "rm", "total_episodes": episodes, "seed": seed}
    shared |= {"reward_funcs": "data/toy/judge.py:gold", "reward_weights": "1,0"}
    for name, settings in {"kl_coef 0": {"kl_coef": 0, "measure_kl": "step"}, "recipe": {}}.items():
        folder = output_dir / name.replace(" ", "_")
        train("ppo_train", "toy_ppo", shared | settings | {"output_dir": folder})
        show(name, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()])


def train(command: str, recipe: str, settings: dict) -> None:
    """Run a stage; one that is complete says so and is left alone."""
    words = [Path(sys.executable).parent / command, "--config", f"configs/recipes/{recipe}.yaml"]
    words += [word for name, value in settings.items() for word in (f"--{name}", value)]
    subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def show(name: str, rows: list[dict]) -> None:
    """A run's course: means over windows of rollouts, then where gold peaked and what fired."""
    rows = [row for row in rows if row["step"]]
    columns = ("reward/reward_model/mean", "reward/gold/mean", "objective/kl", "length/completion_mean")
    numbers = np.array([[row[column] for column in columns] for row in rows])
    print(f"\n{name}\n\n| rollouts | reward model | gold | KL | tokens |\n|---|---|---|---|---|")
    for start in range(0, len(rows) - WINDOW + 1, WINDOW):
        score, gold, kl, length = numbers[start : start + WINDOW].mean(0)
        print(f"| {start + 1}–{start + WINDOW} | {score:+.3f} | {gold:.3f} | {kl:.2f} | {length:.1f} |")
    smooth = np.convolve(numbers[:, 1], np.ones(WINDOW) / WINDOW, mode="valid")
    peak = int(smooth.argmax())
    print(f"\ngold peaks at {smooth[peak]:.3f} (rollouts {peak + 1}–{peak + WINDOW}) and ends at {smooth[-1]:.3f}")
    for verdict in verdicts("ppo", rows):
        if verdict.severity != "ok":
            print(f"{verdict.severity}: {verdict.message}")


if __name__ == "__main__":
    main()

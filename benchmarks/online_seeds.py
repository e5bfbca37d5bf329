"""PPO and GRPO on the toy world over many seeds, from one SFT and one reward model: does any run collapse?

    python benchmarks/online_seeds.py --quickstart outputs/quickstart --seeds 20

A run has collapsed when it ends with a lower score than its first rollout had, which was the SFT model's, or with a KL
above 50 nats. The gold judge watches with weight 0. Each run takes half a minute to a minute; finished ones are reused.
"""

import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np

from easyrlhf.report.diagnostics import verdicts

METHODS = {"ppo": ("ppo_train", "toy_ppo"), "grpo": ("grpo_train", "toy_grpo")}
COLUMNS = ("score", "gold", "KL", "EOS", "alarms")


@click.command(help=__doc__)
@click.option("--quickstart", type=click.Path(path_type=Path), default="outputs/quickstart", show_default=True)
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/online_seeds", show_default=True)
@click.option("--methods", default="ppo,grpo", show_default=True)
@click.option("--seeds", default=20, show_default=True)
def main(quickstart: Path, output_dir: Path, methods: str, seeds: int):
    """Run what is missing; a line per run, then each method's mean and worst."""
    print(f"| method | seed | score: SFT → end | {' | '.join(COLUMNS[1:])} | collapsed |\n|{'---|' * 7}")
    for method in methods.split(","):
        found = [run(method, seed, quickstart, output_dir / method / str(seed)) for seed in range(1, seeds + 1)]
        scores, gold, kl = (np.array([row[name] for row in found]) for name in ("score", "gold", "KL"))
        collapsed = sum(row["collapsed"] for row in found)
        print(
            f"| {method} | all | {scores.mean():+.3f}, worst {scores.min():+.3f} | {gold.mean():.3f}, worst "
            f"{gold.min():.3f} | {kl.mean():.2f}, most {kl.max():.2f} | | | {collapsed} of {len(found)} |",
            flush=True,
        )


def run(method: str, seed: int, quickstart: Path, folder: Path) -> dict:
    """Train unless it is done; one line of the table."""
    command, recipe = METHODS[method]
    words = [Path(sys.executable).parent / command, "--config", f"configs/recipes/{recipe}.yaml"]
    words += ["--model", quickstart / "sft", "--reward_model", quickstart / "rm", "--seed", seed]
    words += ["--reward_funcs", "data/toy/judge.py:gold", "--reward_weights", "1,0", "--output_dir", folder]
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    first, last = next(row for row in rows if row["step"] == 1), rows[-1]
    end = {
        "score": last["eval/scores"],
        "gold": last["reward/gold/mean"],
        "KL": last["eval/kl"],
        "EOS": last["eval/eos_rate"],
        "alarms": sum(verdict.severity == "alarm" for verdict in verdicts(method, rows)),
    }
    end["collapsed"] = end["score"] < first["objective/scores"] or end["KL"] > 50
    cells = [method, seed, f"{first['objective/scores']:+.3f} → {end['score']:+.3f}", f"{end['gold']:.3f}"]
    cells += [f"{end['KL']:.2f}", f"{end['EOS']:.3f}", end["alarms"], "yes" if end["collapsed"] else "no"]
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return end


if __name__ == "__main__":
    main()

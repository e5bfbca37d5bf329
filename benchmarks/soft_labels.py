"""Soft against hard labels on the toy world: which reward model tells held-out preferences better?

    python benchmarks/soft_labels.py --model outputs/quickstart/rm

The gold judge says of every pair how likely a reader prefers the one answer, σ(4 · difference of gold). From the same
pairs in the same order three reward models learn: `soft` that probability, `drawn` one label drawn with it, as a single
annotator gives, and `winner` the likelier answer as if it were sure. Then the cross-entropy of held-out pairs' own
probabilities is compared pair by pair: an interval below 0 says that soft labels are better. The floor is the entropy
of these probabilities.

All three go on from the quickstart's reward model: with so few pairs one from the SFT model has hardly begun
to learn what is true in this world, and when it does is a matter of luck (--model outputs/quickstart/sft).
"""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import click
import numpy as np

from easyrlhf.report.rm_eval import WILSON_Z
from easyrlhf.userfile import load_module

ARMS = ("soft", "drawn", "winner")
TOY = Path("data/toy")
JUDGE = load_module(TOY / "judge.py")


@click.command(help=__doc__)
@click.option("--model", type=click.Path(path_type=Path), default="outputs/quickstart/rm", show_default=True)
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/soft_labels", show_default=True)
@click.option("--rows", default=6000, show_default=True, help="Pairs to learn from.")
@click.option("--seed", default=42, show_default=True)
def main(model: Path, output_dir: Path, rows: int, seed: int):
    """Train what is missing and print the table."""
    output_dir.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    judged = [labelled(row) for row in read(TOY / "comparisons.jsonl.gz")[:rows]]
    for arm in ARMS:
        write(output_dir / f"{arm}.jsonl", [as_told(row, arm, rng) for row in judged])
    held_out = [labelled(row) for row in read(TOY / "comparisons_heldout.jsonl")]
    write(output_dir / "heldout.jsonl", held_out)
    costs = {arm: held_out_costs(arm, model, output_dir, seed) for arm in ARMS}
    labels = np.array([row["chosen_probability"] for row in held_out])
    floor = costs_of(np.log(labels / (1 - labels)), labels).mean()
    print(f"| labels | held-out cross-entropy | beyond the floor of {floor:.4f} | soft less this, 95 % interval |")
    print(f"|{'---|' * 4}")
    for arm, cost in costs.items():
        gap = costs["soft"] - cost
        half = WILSON_Z * gap.std(ddof=1) / np.sqrt(gap.size)
        apart = "" if arm == "soft" else f"{gap.mean():+.4f} ({gap.mean() - half:+.4f} to {gap.mean() + half:+.4f})"
        print(f"| {arm} | {cost.mean():.4f} | {cost.mean() - floor:.4f} | {apart} |")


def read(file: Path) -> list[dict]:
    """The rows of a file of the toy world."""
    text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text()
    return [json.loads(line) for line in text.splitlines()]


def write(file: Path, rows: list[dict]) -> None:
    """One row a line."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def labelled(row: dict) -> dict:
    """A comparison as the gold judge sees it: the likelier answer chosen, and how likely it is."""
    sides = [row["chosen"], row["rejected"]]
    first = JUDGE.prefers(row["prompt"], *(answer[-1]["content"] for answer in sides))
    better, worse = sides if first >= 0.5 else sides[::-1]
    return {"prompt": row["prompt"], "chosen": better, "rejected": worse, "chosen_probability": max(first, 1 - first)}


def as_told(row: dict, arm: str, rng: random.Random) -> dict:
    """The comparison with the label that this arm learns from. The coin is tossed for every arm alike."""
    drawn = rng.random() < row["chosen_probability"]
    if arm == "soft":
        return row
    sides = row["chosen"], row["rejected"]
    sides = sides[::-1] if arm == "drawn" and not drawn else sides
    return {"prompt": row["prompt"], "chosen": sides[0], "rejected": sides[1]}


def held_out_costs(arm: str, model: Path, output_dir: Path, seed: int) -> np.ndarray:
    """The cross-entropy of every held-out pair under the reward model of one arm.  [N]"""
    scored = output_dir / f"scored_{arm}.jsonl"
    common = {"model": model, "output_dir": output_dir / arm, "seed": seed, "center_rewards_coefficient": 0}
    data = {"train_data": output_dir / f"{arm}.jsonl", "valid_data": output_dir / "heldout.jsonl", "report_to": "none"}
    run("rm_train", "--config", "configs/recipes/toy_rm.yaml", *flags(common | data | {"devices": "cpu"}))
    if not scored.exists():
        run("easyrlhf", "score", output_dir / arm, *flags({"data": output_dir / "heldout.jsonl", "output": scored}))
    rows = read(scored)
    return costs_of(
        np.array([row["score_margin"] for row in rows]), np.array([row["chosen_probability"] for row in rows])
    )


def costs_of(margins: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Nats of each label under σ(margin).  [N]"""
    return labels * np.logaddexp(0, -margins) + (1 - labels) * np.logaddexp(0, margins)


def flags(settings: dict) -> list:
    """As words of a command."""
    return [word for name, value in settings.items() for word in (f"--{name}", value)]


def run(command: str, *words) -> None:
    """Run a command of the package; one that is complete says so and is left alone."""
    subprocess.run(
        [str(Path(sys.executable).parent / command), *map(str, words)], check=True, stdout=subprocess.DEVNULL
    )


if __name__ == "__main__":
    main()

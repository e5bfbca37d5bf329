"""A reward model of biased labellers, and what labels on its own policy's answers do: docs/labelling.md.

    python benchmarks/flawed_start.py --sft outputs/quickstart/sft --seeds 42,43

For each seed: a reward model learns from comparisons_biased.jsonl.gz, whose labellers take the longer and friendlier
answer in 30 % of the pairs; PPO trains a policy by it; the policy answers every prompt four times, and the gold judge
labels the two answers of each prompt whose rewards are furthest apart. Then the same reward model is trained anew on
the biased comparisons and these labels together, and the same PPO by it, from the SFT model again. The judge watches
both policies with weight 0.

`of its pairs` is how often a reward model prefers the better one of two answers that the first policy gives to held-out
prompts, and `true first` the same where only one of the two is right.
"""

import gzip
import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import click

from easyrlhf.userfile import load_module

TOY = Path("data/toy")
BIASED, JUDGE = TOY / "comparisons_biased.jsonl.gz", TOY / "judge.py"
score = load_module(JUDGE).score
HEAD = ("seed", "reward model", "steps", "held out", "of its pairs", "true first", "gold", "KL")


@click.command(help=__doc__)
@click.option("--sft", type=click.Path(path_type=Path), default="outputs/quickstart/sft", show_default=True)
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/flawed_start", show_default=True)
@click.option("--seeds", default="42,43", show_default=True)
@click.option("--epochs", default=3, show_default=True, help="Passes of the reward models over their comparisons.")
def main(sft: Path, output_dir: Path, seeds: str, epochs: int):
    """Make what is missing, and print the table."""
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for seed in seeds.split(","):
        folder = output_dir / f"{seed}_{epochs}"
        folder.mkdir(parents=True, exist_ok=True)
        train(folder / "flawed", sft, [BIASED], seed, epochs)
        labels, held_out = label_its_policy(folder, seed)
        train(folder / "mixed", sft, [BIASED, labels], seed, epochs)
        for name in ("flawed", "mixed"):
            print(f"| {seed} | {name} | {' | '.join(cells(folder / name, held_out))} |", flush=True)


def train(folder: Path, sft: Path, comparisons: list[Path], seed: str, epochs: int) -> None:
    """A reward model, and PPO by it."""
    shared = {"model": sft, "seed": seed, "report_to": "none"}
    data = {"train_data": ",".join(map(str, comparisons)), "epochs": epochs, "output_dir": folder / "rm"}
    run("rm_train", config="configs/recipes/toy_rm.yaml", **shared, **data)
    watched = {"reward_funcs": f"{JUDGE}:gold", "reward_weights": "1,0", "output_dir": folder / "ppo"}
    run("ppo_train", config="configs/recipes/toy_ppo.yaml", **shared, **watched, reward_model=folder / "rm")


def label_its_policy(folder: Path, seed: str) -> tuple[Path, Path]:
    """The judge's labels on answers of the flawed policy, and its answers to held-out prompts."""
    prompts, answers, held_out = (folder / f"{name}.jsonl" for name in ("prompts", "answers", "held_out"))
    lines = gzip.decompress((TOY / "prompts.jsonl.gz").read_bytes()).decode().splitlines()
    prompts.write_text("".join(f"{line}\n" for line in dict.fromkeys(lines)))
    drawn = {"samples": 4, "max_new_tokens": 32, "seed": seed}
    policy, rewards = folder / "flawed" / "ppo", folder / "flawed" / "rm"
    run("easyrlhf", "generate", policy, prompts=prompts, output=answers, reward_model=rewards, **drawn)
    run("easyrlhf", "generate", policy, prompts=TOY / "prompts_heldout.jsonl", output=held_out, **drawn)
    labels, exported = folder / "labels", folder / "labels.jsonl"
    run("easyrlhf", "label", "import", answers, labels=labels)
    run("easyrlhf", "label", "ai", judge=f"{JUDGE}:prefers", labels=labels)
    run("easyrlhf", "label", "export", labels=labels, output=exported)
    return exported, held_out


def cells(folder: Path, held_out: Path) -> list[str]:
    """The numbers of a reward model and its policy, as the table has them."""
    judged, trained = (last_row(folder / stage) for stage in ("rm", "ppo"))
    of_pairs, of_truth = accuracies(folder, held_out)
    numbers = (judged["eval/rewards/accuracies"], of_pairs, of_truth, trained["eval/reward/gold/mean"])
    return [str(judged["step"]), *(f"{number:.3f}" for number in numbers), f"{trained['eval/kl']:.2f}"]


def last_row(folder: Path) -> dict:
    """The last row of a run's metrics."""
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


def accuracies(folder: Path, held_out: Path) -> tuple[float, float]:
    """How often the better one of two answers to a prompt has the higher score: of all, and where one alone is true."""
    scored = folder / "scored.jsonl"
    run("easyrlhf", "score", folder / "rm", data=held_out, output=scored)
    by_prompt: dict[str, dict[str, tuple[dict, float]]] = {}
    for row in map(json.loads, scored.read_text().splitlines()):
        text = row["completion"][-1]["content"]
        by_prompt.setdefault(json.dumps(row["prompt"]), {})[text] = score(row["prompt"], text), row["score"]
    pairs = [pair for answers in by_prompt.values() for pair in combinations(answers.values(), 2)]
    return tuple(share_right(pairs, key) for key in ("gold", "correct"))


def share_right(pairs: list[tuple], key: str) -> float:
    """How many of the pairs of (marks, score) that differ in a mark have the higher score with the higher mark."""
    told = [(one, other) for one, other in pairs if one[0][key] != other[0][key]]
    return sum((one[0][key] > other[0][key]) == (one[1] > other[1]) for one, other in told) / len(told)


def run(command: str, *words, **settings) -> None:
    """Run a command of the package; one that is complete says so and is left alone."""
    words = [*words, *(word for name, value in settings.items() for word in (f"--{name}", value))]
    program = str(Path(sys.executable).parent / command)
    subprocess.run([program, *map(str, words)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()

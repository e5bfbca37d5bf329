"""EBFT where the right answer is known: four questions, four words, and a start that says each as often as the others.

    python benchmarks/ebft.py            with and without whitening, under a minute each on one core

Demonstrations answer each question with its own word. The table says how often sampled answers are that word in the
first rollout and in the last five, and the squared distance of features.
"""

import json
import random
from pathlib import Path

import click

from easyrlhf import EBFTConfig, InitConfig, SFTConfig, init_model, train_ebft, train_sft

WORDS = ("red", "owl", "seven", "bread")
QUESTIONS = ("What is it?", "Who was there?", "How many are left?", "Which one do you want?")
STEPS, COMPLETIONS = 100, 64
ARMS = {"whitened": {}, "as they are": {"whiten_samples": 0}}


@click.command(help=__doc__)
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/ebft_words", show_default=True)
@click.option("--num_generations", type=int, default=4, show_default=True)
@click.option("--learning_rate", type=float, default=1e-3, show_default=True)
def main(output_dir: Path, num_generations: int, learning_rate: float):
    """Train, and print a line each."""
    output_dir.mkdir(parents=True, exist_ok=True)
    start = prepare(output_dir)
    print("| features | right before | right after | distance before | after | seconds |\n|---|---|---|---|---|---|")
    for name, own in ARMS.items():
        folder = output_dir / name.replace(" ", "_")
        settings = {
            "model": start,
            "train_data": str(output_dir / "shown.jsonl"),
            "output_dir": str(folder),
            "max_steps": STEPS,
            "total_episodes": STEPS * COMPLETIONS,
            "batch_size": COMPLETIONS,
            "num_generations": num_generations,
            "learning_rate": learning_rate,
            "max_completion_length": 12,
            "max_length": 64,
            "log_rollouts": COMPLETIONS,
            "devices": "cpu",
            "report_to": "none",
            "overwrite": True,
        }
        train_ebft(EBFTConfig(**settings | own))
        rows, hits = read(folder / "metrics.jsonl"), hits_by_step(folder)
        cfm = [row["ebft/cfm"] for row in rows]
        seconds = sum(row["time/step"] for row in rows)
        right, distance = (f"{series[0]:.2f} | {sum(series[-5:]) / 5:.2f}" for series in (hits, cfm))
        print(f"| {name} | {right} | {distance} | {seconds:.0f} |", flush=True)


def hits_by_step(folder: Path) -> list[float]:
    """How often each step's completions were the demonstrations' word."""
    steps: dict[int, list[bool]] = {}
    for row in read(folder / "rollouts.jsonl"):
        steps.setdefault(row["step"], []).append(row["completion"].strip() == row["columns"]["demonstration"].strip())
    return [sum(steps[step]) / len(steps[step]) for step in sorted(steps)]


def read(file: Path) -> list[dict]:
    """The rows of a file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def prepare(folder: Path) -> str:
    """The demonstrations, and a model that answers every question with any of the words; the model's folder."""
    rng = random.Random(0)
    said = [(question, rng.choice(WORDS)) for question in QUESTIONS for _ in range(64)]
    for name, rows in (("any", said), ("shown", list(zip(QUESTIONS, WORDS, strict=True)) * 16)):
        turns = [
            {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": word}]}
            for question, word in rows
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turns))
    data, base, start = (str(folder / name) for name in ("any.jsonl", "init", "start"))
    quiet = {"devices": "cpu", "report_to": "none"}
    if not Path(start).exists():
        init_model(InitConfig(train_data=data, output_dir=base, vocab_size=320))
        settings = {"model": base, "train_data": data, "output_dir": start, "epochs": 4, "learning_rate": 1e-3}
        train_sft(SFTConfig(**settings, batch_size=16, max_length=64, **quiet))
    return start


if __name__ == "__main__":
    main()

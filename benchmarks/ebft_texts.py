"""EBFT's stride mode where the right words are known: texts of four words in a circle, and a start that draws any.

    python benchmarks/ebft_texts.py            all places of a text in one pass, and each by itself, half a minute each

The table says how often two sampled words are those of the text, in the first rollout and in the last five, the squared
distance of features, and how long scores and updates took.
"""

import json
import random
from pathlib import Path

import click

from easyrlhf import EBFTConfig, InitConfig, SFTConfig, init_model, train_ebft, train_sft

WORDS, LENGTH, TEXTS = ("red", "owl", "seven", "bread"), 24, 256
STEPS, COMPLETIONS = 100, 256
ARMS = {"in one pass": "auto", "each by itself": "off"}
QUIET = {"devices": "cpu", "report_to": "none", "max_length": 64, "overwrite": True}


@click.command(help=__doc__)
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/ebft_texts", show_default=True)
def main(output_dir: Path):
    """Train, and print a line each."""
    output_dir.mkdir(parents=True, exist_ok=True)
    start = prepare(output_dir)
    print("| blocks | right before | right after | distance before | after | seconds |\n|---|---|---|---|---|---|")
    for name, share in ARMS.items():
        folder = output_dir / name.replace(" ", "_")
        settings = {
            "model": start,
            "train_data": str(output_dir / "shown.jsonl"),
            "output_dir": str(folder),
            "ebft_mode": "stride",
            "stride": 2,
            "context_length": 4,
            "generate_length": 2,
            "max_steps": STEPS,
            "total_episodes": STEPS * COMPLETIONS,
            "batch_size": COMPLETIONS,
            "learning_rate": 1e-3,
            "log_rollouts": COMPLETIONS,
            "share_prefix": share,
        }
        train_ebft(EBFTConfig(**settings | QUIET))
        rows, hits = read(folder / "metrics.jsonl"), hits_by_step(folder)
        cfm = [row["ebft/cfm"] for row in rows]
        seconds = sum(row["time/score"] + row["time/update"] for row in rows)
        right, distance = (f"{series[0]:.2f} | {sum(series[-5:]) / 5:.2f}" for series in (hits, cfm))
        print(f"| {name} | {right} | {distance} | {seconds:.0f} |", flush=True)


def hits_by_step(folder: Path) -> list[float]:
    """How often each step's completions were what the text says."""
    steps: dict[int, list[bool]] = {}
    for row in read(folder / "rollouts.jsonl"):
        steps.setdefault(row["step"], []).append(row["completion"].split() == row["columns"]["demonstration"].split())
    return [sum(steps[step]) / len(steps[step]) for step in sorted(steps)]


def read(file: Path) -> list[dict]:
    """The rows of a file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def prepare(folder: Path) -> str:
    """Texts of words in a circle, and a model that goes on from any word with any other; the model's folder."""
    rng = random.Random(0)
    for name in ("any", "shown"):
        texts = [words(rng, in_circle=name == "shown") for _ in range(TEXTS)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data, base, start = (str(folder / name) for name in ("any.jsonl", "init", "start"))
    init_model(InitConfig(train_data=data, output_dir=base, vocab_size=300, overwrite=True))
    settings = {"model": base, "train_data": data, "output_dir": start, "epochs": 10, "learning_rate": 1e-3}
    train_sft(SFTConfig(**settings | QUIET, batch_size=16))
    return start


def words(rng: random.Random, in_circle: bool) -> str:
    """A text."""
    at, said = rng.randrange(len(WORDS)), []
    for _ in range(LENGTH):
        said.append(WORDS[at])
        at = (at + 1) % len(WORDS) if in_circle else rng.randrange(len(WORDS))
    return " ".join(said)


if __name__ == "__main__":
    main()

"""Revision, then SFT, on the toy world: how much rudeness goes, and what goes with it; docs/rlaif.md.

    python benchmarks/revisions.py --sft outputs/quickstart/sft

The SFT model answers prompts, the toy world's critic (scripts/toy_judge_server.py) strikes rude phrases out of its
answers, and three epochs of SFT on the revised ones make the other model of the table. Marks are the gold judge's means
over four answers to each held-out prompt; `rude` is the share of answers with a rude phrase.
"""

import gzip
import json
import statistics
import subprocess
import sys
import threading
from pathlib import Path

import click

from easyrlhf.userfile import load_module

TOY = Path("data/toy")
judge, server = load_module(TOY / "judge.py"), load_module(Path("scripts/toy_judge_server.py"))
MARKS = ("gold", "correct", "polite")


@click.command(help=__doc__)
@click.option("--sft", type=click.Path(path_type=Path), default="outputs/quickstart/sft", show_default=True)
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/revisions", show_default=True)
@click.option("--prompts", default=3000, show_default=True, help="Prompts whose answers are revised.")
@click.option("--seed", default=42, show_default=True)
@click.option(
    "--port", default=8013, show_default=True, help="Of the critic; the same goes on where a run was stopped."
)
def main(sft: Path, output_dir: Path, prompts: int, seed: int, port: int):
    """Make what is missing, and print the table."""
    output_dir.mkdir(parents=True, exist_ok=True)
    asked, revised, after = output_dir / "prompts.jsonl", output_dir / "revised.jsonl", output_dir / "sft"
    lines = gzip.decompress((TOY / "prompts.jsonl.gz").read_bytes()).decode().splitlines()
    asked.write_text("".join(f"{line}\n" for line in lines[:prompts]))
    told = {
        "constitution": "configs/constitution.yaml",
        "judge_url": served(port),
        "judge_model": "toy",
        "revisions": 1,
    }
    run("easyrlhf", "revise", sft, prompts=asked, output=revised, seed=seed, max_new_tokens=32, **told)
    data = {"train_data": revised, "output_dir": after, "epochs": 3, "seed": seed, "report_to": "none"}
    run("sft_train", config="configs/recipes/toy_sft.yaml", model=sft, **data)
    print(f"{len(revised.read_text().splitlines()):,} answers to {prompts:,} prompts were revised")
    print(f"| | {' | '.join(MARKS)} | rude |\n|{'---|' * (len(MARKS) + 2)}")
    for name, model in (("sft", sft), ("revision, then sft", after)):
        print(f"| {name} | {' | '.join(marks_of(model, output_dir / f'{name}.jsonl', seed))} |", flush=True)


def served(port: int) -> str:
    """The address of the critic, which a thread serves."""
    critic = server.server_of(server.ToyJudge(), port)
    threading.Thread(target=critic.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{port}"


def marks_of(model: Path, answers: Path, seed: int) -> list[str]:
    """Means over a model's answers to the held-out prompts."""
    drawn = {"samples": 4, "max_new_tokens": 32, "seed": seed}
    run("easyrlhf", "generate", model, prompts=TOY / "prompts_heldout.jsonl", output=answers, **drawn)
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    said = [(row["prompt"], row["completion"][-1]["content"]) for row in rows]
    marks = [judge.score(*one) for one in said]
    rude = statistics.fmean(judge.take_out(" ".join(judge.words_of(text)), judge.RUDE)[1] > 0 for _, text in said)
    return [*(f"{statistics.fmean(one[mark] for one in marks):.3f}" for mark in MARKS), f"{rude:.1%}"]


def run(command: str, *words, **settings) -> None:
    """Run a command of the package; one that is complete says so and is left alone."""
    words = [*words, *(word for name, value in settings.items() for word in (f"--{name}", value))]
    program = str(Path(sys.executable).parent / command)
    subprocess.run([program, *map(str, words)], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()

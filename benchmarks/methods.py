"""Every way from a quickstart's SFT model to a better one, on the toy world, as a table.

    python benchmarks/methods.py --quickstart outputs/quickstart

Each row is a training by the recipe in configs/recipes for every seed, a minute or two each, then the gold judge's
marks of one answer at temperature 1 to every held-out prompt. Means over seeds ± half of their 95 % interval (Student's
t over the seeds' means; with one seed, over prompts). Seconds (of the quickest seed) and memory are of that training
alone: PPO, GRPO and best-of-16 need the reward model besides. Finished results are reused; delete METHOD_SEED.json to
measure one again.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np
import torch

from easyrlhf.data.batches import pad_right, within_budget
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.engine.device import choose_threads
from easyrlhf.models.folder import load_scalar_model
from easyrlhf.models.load import load_causal_lm
from easyrlhf.online.rollout import unpad
from easyrlhf.report.charts import interval_bars
from easyrlhf.userfile import load_module

ROOT = Path(__file__).parent.parent
DATA = ROOT / "data" / "toy"
report = load_module(ROOT / "scripts" / "quickstart_report.py")
judge = load_module(DATA / "judge.py")

DRAWS = 16
GIB = 2**20  # ru_maxrss counts KiB
STUDENT = dict(enumerate((12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262), 2))  # seeds → 97.5 % point


@click.command(help=__doc__)
@click.option("--quickstart", type=click.Path(path_type=Path), default="outputs/quickstart", show_default=True)
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/methods", show_default=True)
@click.option("--methods", default="all", show_default=True, help="Some of the table's, separated by commas.")
@click.option("--seeds", default=1, show_default=True)
@click.option("--picture", type=click.Path(path_type=Path), help="A .png of the gold scores, when given.")
def main(quickstart: Path, output_dir: Path, methods: str, seeds: int, picture: Path | None):
    """Measure what is missing; print a line a method, and perhaps draw them."""
    choose_threads(torch.device("cpu"), 0)
    quickstart, output_dir = quickstart.resolve(), output_dir.resolve()
    output_dir.mkdir(parents=True, exist_ok=True)
    print(line(["method", "gold", "over SFT", "correct", "KL from SFT", "seconds", "GiB"]))
    print("|---" * 7 + "|")
    names, bars = list(MEASURED) if methods == "all" else methods.split(","), []
    start = results("sft", quickstart, output_dir, seeds)
    for method in names:
        found = results(method, quickstart, output_dir, seeds)
        print(row(method, found, start), flush=True)
        mean, half = summary([one["gold"] for one in found])
        bars.append((method, mean, mean - half, mean + half))
    if picture:
        title = f"Gold score on held-out prompts, {seeds} seeds"
        interval_bars("methods", title, sorted(bars, key=lambda bar: -bar[1])).png(picture)


def results(method: str, quickstart: Path, output_dir: Path, seeds: int) -> list[dict]:
    """What a method reached with each seed."""
    files = {seed: output_dir / f"{method}_{seed}.json" for seed in range(42, 42 + seeds)}
    return [known(file, MEASURED[method], quickstart, seed) for seed, file in files.items()]


def summary(marks: list[list[float]]) -> tuple[float, float]:
    """The mean, and half of its 95 % interval.  marks  [seeds, prompts]"""
    if len(marks) == 1:
        number = report.interval(np.array(marks[0]))
        return number["mean"], (number["ci95"][1] - number["ci95"][0]) / 2
    means = np.mean(marks, axis=1)
    return float(means.mean()), float(STUDENT[len(means)] * means.std(ddof=1) / np.sqrt(len(means)))


def known(file: Path, measure: Callable, quickstart: Path, seed: int) -> dict:
    """What was measured before, else what is measured now and kept."""
    if not file.exists():
        file.write_text(json.dumps(measure(quickstart, file.with_suffix(""), seed)))
    return json.loads(file.read_text())


def row(method: str, found: list[dict], start: list[dict]) -> str:
    """A method's line: means over its seeds."""
    gain = [np.subtract(one["gold"], sft["gold"]) for one, sft in zip(found, start, strict=True)]
    columns = [([one["gold"] for one in found], ".3f"), (gain, "+.3f")]
    columns += [([one[name] for one in found], digits) for name, digits in (("correct", ".3f"), ("kl", ".2f"))]
    cells = [method]
    for marks, digits in columns:
        mean, half = summary(marks)
        cells.append(f"{mean:{digits}} ± {half:{digits.lstrip('+')}}")
    seconds, gib = min(one["seconds"] for one in found), max(one["gib"] for one in found)
    return line([*cells, f"{seconds:.0f}" if seconds else "", f"{gib:.2f}" if gib else ""])


def line(cells: list) -> str:
    """Cells as one line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


# --- what is measured: (quickstart, folder, seed) → marks of every prompt, and what they cost


def trained(
    quickstart: Path, folder: Path, seed: int, command: str, start: str = "sft", rewarded: bool = False
) -> dict:
    """A training by its recipe and the marks of its policy."""
    words = [Path(sys.executable).parent / f"{command}_train", "--config", ROOT / f"configs/recipes/toy_{command}.yaml"]
    words += ["--model", quickstart / start, "--output_dir", folder, "--seed", seed, "--overwrite"]
    words += ["--reward_model", quickstart / "rm"] if rewarded else []
    process = subprocess.Popen(list(map(str, words)), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise click.ClickException(f"{' '.join(map(str, words))}: failed; run it to see why")
    marks = marks_of(quickstart, folder, seed)
    return marks | {"seconds": report.stage_seconds(folder), "gib": used.ru_maxrss / GIB}


def untrained(quickstart: Path, folder: Path, seed: int) -> dict:
    """The marks of the SFT model itself."""
    return marks_of(quickstart, quickstart / "sft", seed) | {"seconds": 0, "gib": 0}


@torch.no_grad()
def marks_of(quickstart: Path, folder: Path, seed: int) -> dict:
    """Marks of one sampled answer to every held-out prompt, and log policy − log SFT of each."""
    prompts, renderer = heldout(quickstart)
    policy, sft = (loaded(path, renderer) for path in (folder, quickstart / "sft"))
    samples = report.sample(policy, renderer, prompts, seed, 1.0)
    kl = report.kl_of(policy, sft, renderer, prompts, samples)
    return columns(report.judge_all(judge, renderer, prompts, samples)) | {"kl": kl}


@torch.no_grad()
def best_of(quickstart: Path, folder: Path, seed: int) -> dict:
    """Marks of the answer that the reward model likes best of DRAWS by the SFT model; its KL is at most this bound."""
    started = time.time()
    prompts, renderer = heldout(quickstart)
    sft = loaded(quickstart / "sft", renderer)
    rm = load_scalar_model(str(quickstart / "rm"), renderer.tokenizer, dtype=torch.float32)
    marks, scores = [], []
    for draw in range(DRAWS):
        samples = report.sample(sft, renderer, prompts, 1000 * seed + draw, 1.0)
        answers = unpad(samples.completion_ids, samples.completion_mask)
        scores.append(
            scores_of(rm, renderer, [renderer.prompt_ids(p) + a for p, a in zip(prompts, answers, strict=True)])
        )
        marks.append(report.judge_all(judge, renderer, prompts, samples))
    best = np.argmax(scores, axis=0)
    bound = float(np.log(DRAWS) - (DRAWS - 1) / DRAWS)
    chosen = [marks[draw][number] for number, draw in enumerate(best)]
    return columns(chosen) | {"kl": [bound] * len(prompts), "seconds": time.time() - started, "gib": 0}


def scores_of(rm, renderer: Renderer, sequences: list[list[int]]) -> np.ndarray:
    """The reward model's score of every sequence.  [N]"""
    found = np.zeros(len(sequences))
    for group in within_budget([len(ids) for ids in sequences], report.TOKENS):
        ids = [sequences[i] for i in group]
        found[group] = rm.scores(pad_right(ids, renderer.pad_id), torch.tensor([len(one) for one in ids]))
    return found


def heldout(quickstart: Path) -> tuple[list, Renderer]:
    """The held-out prompts, and the renderer of the quickstart's models."""
    prompts = [row["prompt"] for row in report.read(DATA / "prompts_heldout.jsonl")]
    return prompts, Renderer(load_tokenizer(str(quickstart / "sft")))


def loaded(folder: Path, renderer: Renderer):
    """A policy, ready to sample."""
    return load_causal_lm(str(folder), renderer.tokenizer, dtype=torch.float32)


def columns(marks: list[dict]) -> dict[str, list[float]]:
    """The judge's marks by name."""
    return {name: [float(one[name]) for one in marks] for name in ("gold", "correct")}


MEASURED = {
    "sft": untrained,
    **{name: partial(trained, command=name) for name in ("dpo", "ipo", "kto", "simpo", "cpo", "rrhf")},
    "orpo": partial(trained, command="orpo", start="init"),
    "ppo": partial(trained, command="ppo", rewarded=True),
    "grpo": partial(trained, command="grpo", rewarded=True),
    f"best-of-{DRAWS}": best_of,
}


if __name__ == "__main__":
    main()

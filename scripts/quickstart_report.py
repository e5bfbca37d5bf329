"""Compare base, SFT and PPO policies of a quickstart on held-out prompts, by the gold judge that no stage trained on.

Writes summary.json and report.html into the quickstart's folder and prints the table.
"""

import json
import time
from pathlib import Path
from types import ModuleType

import click
import numpy as np
import torch

from easyrlhf.data.batches import join, pad_right, within_budget
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.engine.device import choose_threads
from easyrlhf.models.load import load_causal_lm
from easyrlhf.models.logprobs import row_token_logprobs
from easyrlhf.online.rollout import unpad
from easyrlhf.report import blocks
from easyrlhf.report.charts import Chart, interval_bars
from easyrlhf.report.plots import charts
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler, Samples
from easyrlhf.userfile import load_module

POLICIES = {"base": "init", "sft": "sft", "ppo": "ppo"}
RESPONSE_LENGTH = 32
TOKENS = 4096


@click.command(help=__doc__)
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/quickstart", show_default=True)
@click.option("--data", type=click.Path(path_type=Path), default="data/toy", show_default=True)
@click.option("--seed", default=42, show_default=True)
@torch.no_grad()
def main(output_dir: Path, data: Path, seed: int):
    """Sample, judge, write, print."""
    started = time.time()
    choose_threads(torch.device("cpu"), 0)
    judge = load_module(data / "judge.py")
    prompts = [row["prompt"] for row in read(data / "prompts_heldout.jsonl")]
    renderer = Renderer(load_tokenizer(str(output_dir / "sft")))
    models = {
        name: load_causal_lm(str(output_dir / f), renderer.tokenizer, dtype=torch.float32)
        for name, f in POLICIES.items()
    }
    samples = {name: sample(lm, renderer, prompts, seed, 1.0) for name, lm in models.items()}
    greedy = {name: sample(models[name], renderer, prompts, seed, 0.0) for name in ("sft", "ppo")}
    marks = {name: judge_all(judge, renderer, prompts, s) for name, s in samples.items()}
    greedy_marks = {name: judge_all(judge, renderer, prompts, s) for name, s in greedy.items()}

    summary = {
        "sft_eval_loss": interval(heldout_losses(models["sft"], renderer, read(data / "sft_heldout.jsonl"))),
        "rm_accuracy": rm_accuracy(output_dir / "rm"),
        "rm_accuracy_ceiling": interval(ceiling(judge, read(data / "comparisons_heldout.jsonl"))),
        **{f"gold_{name}": interval([m["gold"] for m in marks[name]]) for name in POLICIES},
        **{
            f"correct_{name}": {
                "sampled": interval([m["correct"] for m in marks[name]]),
                "greedy": interval([m["correct"] for m in greedy_marks[name]]),
            }
            for name in ("sft", "ppo")
        },
        "kl_ppo": interval(kl_of(models["ppo"], models["sft"], renderer, prompts, samples["ppo"])),
        "eos_rate_ppo": samples["ppo"].finished.float().mean().item(),
        "seconds": {stage: stage_seconds(output_dir / stage) for stage in ("init", "sft", "rm", "ppo")},
        "seed": seed,
    }
    summary["seconds"]["comparison"] = round(time.time() - started, 1)
    (output_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    answers = {name: texts(renderer, s) for name, s in samples.items()}
    write_page(output_dir, summary, prompts, answers, marks)
    print(table(summary))
    print(f"\n{verdict(summary)}\nPictures and sample answers: {output_dir / 'report.html'}")


def read(path: Path) -> list[dict]:
    """Rows of a .jsonl file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def sample(lm, renderer: Renderer, prompts: list, seed: int, temperature: float) -> Samples:
    """One answer to every prompt; temperature 0 is greedy."""
    sampler = HFSampler(lm, renderer.pad_id, Ending.of(renderer), RESPONSE_LENGTH, temperature, batch_size=128)
    keys = [(seed, 2, number) for number in range(len(prompts))]
    return sampler.generate([renderer.prompt_ids(prompt) for prompt in prompts], keys)


def texts(renderer: Renderer, samples: Samples) -> list[str]:
    """The answers as text."""
    return [renderer.decode(ids) for ids in unpad(samples.completion_ids, samples.completion_mask)]


def judge_all(judge: ModuleType, renderer: Renderer, prompts: list, samples: Samples) -> list[dict]:
    """The judge's marks of every answer."""
    return [judge.score(prompt, text) for prompt, text in zip(prompts, texts(renderer, samples), strict=True)]


def ceiling(judge: ModuleType, pairs: list[dict]) -> list[float]:
    """For each held-out pair whether its noisy label is what the gold judge says."""
    gold = [
        [judge.score(p["prompt"], p[side][-1]["content"])["gold"] for side in ("chosen", "rejected")] for p in pairs
    ]
    return [float(chosen > rejected) for chosen, rejected in gold]


def heldout_losses(lm, renderer: Renderer, rows: list[dict]) -> list[float]:
    """Negative log-likelihood of every assistant token of the held-out demonstrations, nats."""
    encoded = []
    for row in rows:
        first = next(i for i, turn in enumerate(row["messages"]) if turn["role"] == "assistant")
        encoded.append(renderer.conversation(row["messages"][:first], row["messages"][first:]))
    losses = []
    for group in within_budget([len(ids) for ids, _ in encoded], TOKENS):
        ids = pad_right([encoded[i][0] for i in group], renderer.pad_id)
        losses += (-row_token_logprobs(lm, ids, pad_right([encoded[i][1] for i in group]))).tolist()
    return losses


def kl_of(policy, reference, renderer: Renderer, prompts: list, samples: Samples) -> list[float]:
    """log policy − log reference, summed over each sampled answer, nats."""
    completions = unpad(samples.completion_ids, samples.completion_mask)
    prompt_ids = [renderer.prompt_ids(prompt) for prompt in prompts]
    kl = []
    for group in within_budget([len(p) + len(c) for p, c in zip(prompt_ids, completions, strict=True)], TOKENS):
        ids, mask = join([prompt_ids[i] for i in group], [completions[i] for i in group], renderer.pad_id)
        ratios = row_token_logprobs(policy, ids, mask) - row_token_logprobs(reference, ids, mask)
        kl += [part.sum().item() for part in ratios.split(mask.sum(1).tolist())]
    return kl


def rm_accuracy(folder: Path) -> dict:
    """The reward model's held-out accuracy as rm_train measured it."""
    found = json.loads((folder / "rm_eval.json").read_text())
    return {"mean": found["accuracy"], "ci95": found["ci95"], "n": found["n"]}


def interval(values: list[float]) -> dict:
    """Mean with its 95 % confidence interval (normal approximation)."""
    half = 1.96 * np.std(values, ddof=1) / np.sqrt(len(values))
    mean = float(np.mean(values))
    return {"mean": mean, "ci95": [mean - float(half), mean + float(half)], "n": len(values)}


def stage_seconds(folder: Path) -> float:
    """Wall time of a stage."""
    return json.loads((folder / "stage.json").read_text())["wall_seconds"]


ROWS = (
    ("SFT held-out loss", ("sft_eval_loss",), "nats per token"),
    ("reward model accuracy", ("rm_accuracy",), "held-out pairs"),
    ("its ceiling", ("rm_accuracy_ceiling",), "the judge on the same noisy labels"),
    ("gold score, base", ("gold_base",), "0 to 1"),
    ("gold score, SFT", ("gold_sft",), ""),
    ("gold score, PPO", ("gold_ppo",), ""),
    ("correct, SFT sampled", ("correct_sft", "sampled"), ""),
    ("correct, PPO sampled", ("correct_ppo", "sampled"), ""),
    ("correct, SFT greedy", ("correct_sft", "greedy"), ""),
    ("correct, PPO greedy", ("correct_ppo", "greedy"), ""),
    ("KL of PPO from SFT", ("kl_ppo",), "nats per answer"),
)


def rows_of(summary: dict) -> list[tuple[str, str, str, str]]:
    """Name, mean, interval and note of every measured number."""
    rows = []
    for name, path, note in ROWS:
        number = summary
        for key in path:
            number = number[key]
        low, high = number["ci95"]
        rows.append((name, f"{number['mean']:.3f}", f"{low:.3f} to {high:.3f}", note))
    return rows


def table(summary: dict) -> str:
    """The numbers as plain text."""
    lines = [f"{'':24}{'mean':>8}   {'95 % interval':<18}"]
    lines += [f"{name:24}{mean:>8}   {ci:<18}{note}" for name, mean, ci, note in rows_of(summary)]
    return "\n".join(lines)


def verdict(summary: dict) -> str:
    """What came out, in one sentence."""
    gain = summary["gold_ppo"]["mean"] - summary["gold_sft"]["mean"]
    apart = summary["gold_ppo"]["ci95"][0] > summary["gold_sft"]["ci95"][1]
    right = summary["correct_ppo"]["sampled"]["mean"] - summary["correct_sft"]["sampled"]["mean"]
    if not apart:
        return f"PPO did not clearly beat SFT: the gold score moved by {gain:+.3f}, within the intervals."
    return (
        f"PPO beat SFT on prompts it never saw: gold score {gain:+.3f}, correct answers {right:+.1%}, at "
        f"{summary['kl_ppo']['mean']:.1f} nats from SFT; {summary['eos_rate_ppo']:.1%} of its answers end."
    )


def write_page(folder: Path, summary: dict, prompts: list, answers: dict, marks: dict) -> None:
    """report.html: the comparison, PPO's curves, answers before and after."""
    shown = list(range(0, len(prompts), max(1, len(prompts) // 12)))[:12]
    items = [
        (
            "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompts[i]),
            [(name, answers[name][i], f"gold {marks[name][i]['gold']:.2f}") for name in POLICIES],
        )
        for i in shown
    ]
    curves = [blocks.chart(drawn) for stage in ("sft", "rm", "ppo") for drawn in charts(folder / stage, stage)]
    links = [f"{stage}: {stage}/report.html" for stage in ("sft", "rm", "ppo")]
    sections = [
        blocks.section("Who answers best", blocks.chart(gold_chart(summary), wide=True)),
        blocks.section("Numbers", blocks.html_table(("", "mean", "95 % interval", ""), rows_of(summary))),
        blocks.section(
            "Sample answers",
            blocks.samples(items),
            note="Held-out prompts, sampled at temperature 1.",
        ),
        blocks.section("Curves", blocks.grid(*curves), note="SFT, reward model, PPO."),
        blocks.section("Reports of the stages", blocks.line_list(links)),
    ]
    page = blocks.html_page(
        "Quickstart: base, SFT and PPO",
        sections,
        lead=verdict(summary),
        over="easyrlhf · toy world",
    )
    (folder / "report.html").write_text(page)


def gold_chart(summary: dict) -> Chart:
    """Gold scores of the three policies with their intervals."""
    bars = [(name.upper(), summary[f"gold_{name}"]["mean"], *summary[f"gold_{name}"]["ci95"]) for name in POLICIES]
    return interval_bars("gold", "Gold score on held-out prompts", bars, "Means and 95 % intervals; 1 is perfect.")


if __name__ == "__main__":
    main()

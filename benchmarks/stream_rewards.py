"""Seconds of a GRPO step with slow rewards, asked for at the end of a rollout and while it is being sampled.

    python benchmarks/stream_rewards.py --model outputs/quickstart/sft

The function takes half a second a prompt, as a call of a judge or a run of tests does. All numbers of the two runs but
their times must be the same. What could overlap is the shorter of sampling and rewards, but for one prompt's: no
prompt is asked about before its own completions are there.
"""

import json
import tempfile
from pathlib import Path
from statistics import median

import click

from easyrlhf import GRPOConfig, train_grpo

ROOT = Path(__file__).parent.parent
REWARD = """
import time

def judged(prompts, completions, **_):
    time.sleep({seconds} * len(set(map(str, prompts))))
    return [float(len(str(one)) % 2) for one in completions]
"""
STEPS, WARM = 6, 2  # of a run, and those that do not count
PROMPTS, EACH = 4, 192


@click.command(help=__doc__)
@click.option("--model", default="outputs/quickstart/sft", show_default=True, help="An SFT model.")
@click.option("--seconds", default=0.5, show_default=True, help="Of the rewards of a prompt.")
@click.option("--decoded", default=4, show_default=True, help="Completions that are decoded together.")
def main(model: str, seconds: float, decoded: int):
    """Print a line for each."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rewards.py").write_text(REWARD.format(seconds=seconds))
        runs = [run(Path(folder) / str(streams), model, streams, decoded) for streams in (False, True)]
        timed = [medians(rows) for rows in runs]
        print("| stream_rewards | step | rollout | score | update |\n|---|---|---|---|---|")
        for name, times in zip(("off", "on"), timed, strict=True):
            print(f"| {name} | " + " | ".join(f"{number:.2f}" for number in times.values()) + " |")
        off, on = timed
        could = min(off["rollout"] * (1 - 1 / PROMPTS), seconds * (PROMPTS - 1))
        saved = off["step"] - on["step"]
        print(f"\n{saved:.2f} s less a step, {saved / off['step']:.0%}; {saved / could:.0%} of what could overlap")
        same = [[without_times(row) for row in rows] for rows in runs]
        print(f"all other numbers are {'the same' if same[0] == same[1] else 'DIFFERENT'}")


def run(folder: Path, model: str, streams: bool, decoded: int) -> list[dict]:
    """The rows of a run's metrics.jsonl."""
    config = GRPOConfig(
        model=model,
        train_data=str(ROOT / "data" / "toy" / "prompts.jsonl.gz"),
        reward_funcs=f"{folder.parent}/rewards.py:judged",
        stream_rewards=streams,
        output_dir=str(folder),
        max_steps=STEPS,
        batch_size=PROMPTS * EACH,
        num_generations=EACH,
        local_rollout_forward_batch_size=decoded,
        max_completion_length=32,
        max_prompt_length=64,
        max_length=96,
        num_sample_generations=0,
        devices="cpu",
        report_to="none",
    )
    train_grpo(config)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def medians(rows: list[dict]) -> dict[str, float]:
    """The median seconds of a step and its phases."""
    return {name: median(row[f"time/{name}"] for row in rows[WARM:]) for name in ("step", "rollout", "score", "update")}


def without_times(row: dict) -> dict:
    """A row without what depends on the clock."""
    return {name: value for name, value in row.items() if not name.startswith(("time/", "tokens_per_second"))}


if __name__ == "__main__":
    main()

"""Seconds of a GRPO step with rollouts begun ahead, on a server that takes as long over one as the update does.

    python benchmarks/rollout_ahead.py --model outputs/quickstart/sft

The server is a stand-in that needs no vLLM: it waits, and answers with eight tokens of the prompt. How long an update
takes is measured first.
"""

import json
import tempfile
import time
from pathlib import Path
from statistics import median

import click

from easyrlhf import GRPOConfig, train_grpo
from easyrlhf.userfile import load_module

ROOT = Path(__file__).parent.parent
stand_in = load_module(ROOT / "tests" / "rollout" / "vllm_server.py")
REWARD = "def even(completions, **_):\n    return [float(len(str(one)) % 2) for one in completions]\n"
STEPS, WARM = 12, 2  # of a run, and those that do not count


@click.command(help=__doc__)
@click.option("--model", default="outputs/quickstart/sft", show_default=True, help="An SFT model.")
@click.option("--aheads", default="0,1,3", show_default=True, help="Values of --rollout_ahead.")
def main(model: str, aheads: str):
    """Print a line for each."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rewards.py").write_text(REWARD)
        latency = seconds_of(Path(folder) / "first", model, 0, 0.0)["update"]
        print(f"an update takes {latency:.2f} s, and so does a rollout on the server\n")
        print("| rollout_ahead | step | rollout | update | step beside 0 |\n|---|---|---|---|---|")
        first = None
        for ahead in map(int, aheads.split(",")):
            found = seconds_of(Path(folder) / str(ahead), model, ahead, latency)
            first = first or found["step"]
            times = " | ".join(f"{found[phase]:.2f}" for phase in ("step", "rollout", "update"))
            print(f"| {ahead} | {times} | {found['step'] / first - 1:+.0%} |", flush=True)


def seconds_of(folder: Path, model: str, ahead: int, latency: float) -> dict[str, float]:
    """The median seconds of a step's phases."""

    def complete(body: dict) -> tuple[list[int], list[float]]:
        time.sleep(latency)
        ids = [*body["prompt"][:8], *body["stop_token_ids"][:1]]
        return ids, [-1.0] * len(ids)

    with stand_in.VLLM(complete).served() as server:
        config = GRPOConfig(
            model=model,
            train_data=str(ROOT / "data" / "toy" / "prompts.jsonl.gz"),
            reward_funcs=f"{folder.parent}/rewards.py:even",
            output_dir=str(folder),
            max_steps=STEPS,
            batch_size=64,
            num_iterations=8,
            max_completion_length=32,
            max_prompt_length=64,
            max_length=96,
            beta=0.1,
            rollout="vllm",
            vllm_mode="server",
            vllm_port=server.port,
            rollout_ahead=ahead,
            num_sample_generations=0,
            devices="cpu",
            report_to="none",
        )
        train_grpo(config)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()][WARM:]
    return {phase: median(row[f"time/{phase}"] for row in rows) for phase in ("step", "rollout", "update")}


if __name__ == "__main__":
    main()

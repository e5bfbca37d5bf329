"""Seconds of a PPO step with each way of sampling: our own loop, vLLM in the run, a vLLM server, and one step ahead.

    python benchmarks/rollouts.py --quickstart outputs/quickstart

Needs vLLM (docs/vllm.md) and a finished quickstart (scripts/quickstart.sh), whose SFT and reward model it starts from.
The ways take turns. On a CPU the run has the first core and the server the second, as a GPU each would be.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import click

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "configs" / "recipes" / "toy_ppo.yaml"
WAYS = {
    "hf": ["--rollout", "hf"],
    "vllm, colocated": ["--rollout", "vllm"],
    "vllm, server": ["--rollout", "vllm", "--vllm_mode", "server"],
    "vllm, server, one ahead": ["--rollout", "vllm", "--vllm_mode", "server", "--rollout_ahead", "1"],
}
UNBOUND = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # the cores are those that bind gives
PHASES = ("step", "rollout", "score", "update")


@click.command(help=__doc__)
@click.option("--quickstart", default="outputs/quickstart", show_default=True, help="Folder with sft/ and rm/.")
@click.option("--rounds", default=3, show_default=True, help="Runs of each way.")
@click.option("--steps", default=8, show_default=True, help="Steps of a run; the first two do not count.")
@click.option("--port", default=8011, show_default=True, help="Of the server.")
def main(quickstart: str, rounds: int, steps: int, port: int):
    """Print a line for each way."""
    programs, folder = Path(sys.executable).parent, Path(quickstart)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", **UNBOUND}
    seconds = {way: {phase: [] for phase in PHASES} for way in WAYS}
    with tempfile.TemporaryDirectory() as scratch:
        log = (Path(scratch) / "server.log").open("w")
        words = [programs / "easyrlhf", "vllm_serve", RECIPE, "--model", folder / "sft", "--vllm_port", str(port)]
        server = subprocess.Popen(words, stdout=log, stderr=log, env=environment, preexec_fn=lambda: bind(1))
        try:
            for number in range(rounds):
                for way, flags in WAYS.items():
                    output = Path(scratch) / f"{way}-{number}".replace(" ", "").replace(",", "-")
                    words = [programs / "ppo_train", "--config", RECIPE, "--model", folder / "sft", "--reward_model"]
                    words += [
                        folder / "rm",
                        "--output_dir",
                        output,
                        "--max_steps",
                        str(steps),
                        "--vllm_port",
                        str(port),
                    ]
                    words += ["--value_warmup_steps", "0", "--num_sample_generations", "0", *flags]
                    subprocess.run(words, check=True, env=environment, stdout=log, preexec_fn=lambda: bind(0))
                    for line in (output / "metrics.jsonl").read_text().splitlines():
                        row = json.loads(line)
                        for phase in PHASES if row["step"] > 2 else ():
                            seconds[way][phase].append(row[f"time/{phase}"])
        finally:
            server.terminate()
            server.wait()
    click.echo("| sampled with | " + " | ".join(f"{phase}, s" for phase in PHASES) + " |\n" + "|---" * 5 + "|")
    for way, phases in seconds.items():
        click.echo(f"| {way} | " + " | ".join(f"{median(phases[phase]):.2f}" for phase in PHASES) + " |")


def bind(core: int) -> None:
    """Keep this process on a core, where the machine has several."""
    if hasattr(os, "sched_setaffinity") and os.cpu_count() > core:
        os.sched_setaffinity(0, {core})


if __name__ == "__main__":
    main()

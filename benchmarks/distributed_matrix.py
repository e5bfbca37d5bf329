"""Every stage on one process, on two, on two to a row, under ZeRO-2 and -3, with LoRA under ZeRO-3, and on two nodes.

    python benchmarks/distributed_matrix.py --output_dir outputs/matrix                 # about 25 minutes on 2 cores
    python benchmarks/distributed_matrix.py --stages sft,ppo --layouts one,zero3

Works on a finished quickstart (scripts/quickstart.sh): its folders are where the stages start. Each cell is a run of
the real command on the CPU; the table says where the run ends (loss of the last step, or mean score of the last
rollout), how far that is from one process, and how long the command took. The node column is two launchers on this
machine.
"""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import click

TOY = Path(__file__).parent.parent / "data" / "toy"
SHORT = ["--max_length", "128", "--max_prompt_length", "96", "--report_to", "none", "--eval_steps", "0"]
PAIRS = ["--train_data", str(TOY / "comparisons.jsonl.gz"), "--batch_size", "50", "--max_steps", "20"]
PROMPTS = ["--train_data", str(TOY / "prompts.jsonl.gz"), "--max_steps", "5", "--batch_size", "56"]
ONE = ["--devices", "cpu"]
TWO = ["--devices", "cpu:2", "--micro_batch_tokens", "1500"]
LORA = ["--lora_r", "8"]
LAYOUTS = {
    "one": ONE,
    "cpu:2": [*TWO, "--deepspeed", "none"],
    "two to a row": ["--devices", "cpu:2", "--context_parallel_size", "2", "--deepspeed", "none"],
    "zero2": [*TWO, "--deepspeed", "zero2"],
    "zero3": [*TWO, "--deepspeed", "zero3"],
    "one, LoRA": [*ONE, *LORA],
    "zero3, LoRA": [*TWO, "--deepspeed", "zero3", *LORA],
    "two nodes": ["--devices", "cpu", "--nnodes", "2", "--deepspeed", "zero2"],
}
TWINS = {"zero3, LoRA": "one, LoRA"}  # what a layout is compared with, where that is not one process


def stages(start: Path) -> dict[str, list[str]]:
    """Stage → its flags."""
    from_init, from_sft = ["--model", str(start / "init")], ["--model", str(start / "sft")]
    rewarded = [*from_sft, "--reward_model", str(start / "rm"), *PROMPTS]
    offline = {name: [*from_sft, *PAIRS, "--learning_rate", "2e-4"] for name in ("dpo", "ipo", "simpo", "cpo", "rrhf")}
    return {
        "sft": [*from_init, "--train_data", str(TOY / "sft.jsonl.gz"), *PAIRS[2:], "--learning_rate", "2e-3"],
        "rm": [*from_sft, *PAIRS, "--learning_rate", "1e-3"],
        **offline,
        "orpo": [*from_init, *PAIRS, "--learning_rate", "1e-3"],
        "kto": [*from_sft, "--train_data", str(TOY / "feedback.jsonl"), *PAIRS[2:], "--learning_rate", "2e-4"],
        "ppo": [*rewarded, "--response_length", "24", "--learning_rate", "3e-4", "--kl_coef", "0.2"],
        "grpo": [*rewarded, "--max_completion_length", "24", "--learning_rate", "1e-3", "--num_generations", "4"],
    }


def run_cell(stage: str, flags: list[str], folder: Path, nodes: int) -> tuple[float, float]:
    """Run one cell; returns where it ended and its seconds."""
    program = Path(sys.executable).with_name(f"{stage}_train")
    command = [program, *flags, *SHORT, "--output_dir", folder, "--overwrite"]
    if nodes > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            command += ["--master_addr", "127.0.0.1", "--master_port", str(probe.getsockname()[1])]
    started = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(
            [*command, *(["--node_rank", str(node)] if nodes > 1 else [])],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in range(nodes)
    ]
    said = [run.communicate()[0] for run in runs]
    if any(run.returncode for run in runs):
        raise click.ClickException(f"{' '.join(map(str, command))} failed:\n" + "\n".join(said)[-3000:])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = next(row for row in reversed(rows) if "loss" in row or "objective/scores" in row)
    return last.get("loss", last.get("objective/scores")), time.monotonic() - started


@click.command(help=__doc__.split("\n")[0])
@click.option("--start", default="outputs/quickstart", show_default=True, help="A finished quickstart.")
@click.option("--output_dir", default="outputs/matrix", show_default=True, help="Where the runs and table.json go.")
@click.option("--stages", "chosen", default=None, help="Some stages, separated by commas.")
@click.option("--layouts", "wanted", default=None, help="Some layouts, separated by semicolons.")
def main(start: str, output_dir: str, chosen: str | None, wanted: str | None) -> None:
    """Fill the table and print it as it grows."""
    table: dict[str, dict[str, tuple[float, float]]] = {}
    layouts = wanted.split(";") if wanted else list(LAYOUTS)
    click.echo("| stage | " + " | ".join(layouts) + " |\n|" + "---|" * (len(layouts) + 1))
    for stage, flags in stages(Path(start)).items():
        if chosen and stage not in chosen.split(","):
            continue
        cells, row = table.setdefault(stage, {}), []
        for layout in layouts:
            folder = Path(output_dir) / f"{stage}-{layout.replace(', ', '-').replace(' ', '-').replace(':', '')}"
            cells[layout] = run_cell(stage, [*flags, *LAYOUTS[layout]], folder, 2 if layout == "two nodes" else 1)
            value, seconds = cells[layout]
            twin = TWINS.get(layout, "one")
            apart = f", {value - cells[twin][0]:+.0e}" if twin in cells and twin != layout else ""
            row.append(f"{value:.5f}{apart}, {seconds:.0f} s")
        click.echo(f"| {stage} | " + " | ".join(row) + " |")
        (Path(output_dir) / "table.json").write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()

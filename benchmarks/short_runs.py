"""Nine short runs, for a change that must change no number: is every metric and every weight the same, bit for bit?

    git worktree add ../before SOME_COMMIT
    cd ../before && python ../here/benchmarks/short_runs.py --output_dir outputs/short_runs     # about a minute
    cd ../here && python benchmarks/short_runs.py --output_dir outputs/short_runs --against ../before/outputs/short_runs

The package is that of the folder it is started in. With --against the runs are compared with those, all but times; and
each of those is continued from its second step by the code of this folder, which has to end as it did itself. Exit code
1 when anything differs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import click

TOY = Path.cwd() / "data" / "toy"
PAIRS, PROMPTS = {"train_data": "comparisons.jsonl.gz"}, {"train_data": "prompts.jsonl.gz"}
QUIET = {"devices": "cpu", "report_to": "none", "seed": 1, "batch_size": 8, "max_steps": 4, "save_steps": 2}
ONLINE = PROMPTS | {"model": "init", "batch_size": 8, "num_mini_batches": 2}
RUNS = {
    "sft": ("sft", {"model": "init", "train_data": "sft.jsonl.gz", "valid_data": "sft_heldout.jsonl"}),
    "rm": ("rm", PAIRS | {"model": "init", "valid_data": "comparisons_heldout.jsonl", "examine_rows": 0}),
    "ppo": ("ppo", ONLINE | {"reward_model": "rm", "response_length": 8}),
    "grpo": ("grpo", ONLINE | {"reward_model": "rm", "max_completion_length": 8, "num_generations": 4, "beta": 0.1}),
    "ppo shared": (
        "ppo",
        ONLINE | {"reward_model": "rm lora", "response_length": 8, "lora_r": 4, "share_backbone": ""},
    ),
    "dpo": ("dpo", PAIRS | {"model": "init", "valid_data": "comparisons_heldout.jsonl"}),
    "kto lora": ("kto", {"model": "init", "train_data": "feedback.jsonl", "lora_r": 4}),
    "orpo": ("orpo", PAIRS | {"model": "init"}),
    "rm lora": ("rm", PAIRS | {"model": "init", "lora_r": 4}),
}
ORDER = ("sft", "rm", "rm lora", "ppo", "grpo", "ppo shared", "dpo", "kto lora", "orpo")
TIMED = ("time/", "tokens_per_second", "memory/")


@click.command(help=__doc__)
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/short_runs", show_default=True)
@click.option("--against", type=click.Path(path_type=Path, exists=True), help="The runs of another folder's code.")
def main(output_dir: Path, against: Path | None):
    """Run what is missing; with other runs, compare."""
    output_dir.mkdir(parents=True, exist_ok=True)
    init = {"preset": "tiny", "train_data": TOY / "sft.jsonl.gz", "output_dir": output_dir / "init"}
    if not (output_dir / "init").exists():
        call("easyrlhf.cli.main", "main", ["init"], init)
    for name in ORDER:
        train(name, output_dir, output_dir / name)
    if against is None:
        return
    print(f"| run | metrics | weights | continued from step 2 |\n|{'---|' * 4}")
    same = [compare(name, output_dir, against) for name in ORDER]
    sys.exit(0 if all(same) else 1)


def train(name: str, base: Path, folder: Path, **more) -> None:
    """Run one; its models are in `base`. A complete folder is taken as it is."""
    stage, settings = RUNS[name]
    places = {"model": base, "reward_model": base, "train_data": TOY, "valid_data": TOY}
    settings = {key: places[key] / value if key in places else value for key, value in settings.items()}
    call("easyrlhf.cli.stages", f"{stage}_train", [], QUIET | settings | {"output_dir": folder} | more)


def call(module: str, command: str, words: list[str], settings: dict) -> None:
    """A command in a process of its own, with the package of this folder."""
    words += [word for key, value in settings.items() for word in (f"--{key}", str(value)) if word]
    module = module if (Path("easyrlhf") / "cli" / "stages.py").exists() or "main" in module else older(command)
    program = f"from {module} import {command if module.endswith('stages') else 'main'} as main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise click.ClickException(f"{command} {' '.join(words)}\n{done.stdout}{done.stderr}")


def compare(name: str, ours: Path, theirs: Path) -> bool:
    """A row of the table: one run of both, and theirs gone on with here."""
    branch = ours / f"{name} continued"
    train(name, theirs, branch, resume=theirs / name / "checkpoints" / "step-2")
    found = [
        metrics(ours / name) == metrics(theirs / name),
        weights(ours / name) == weights(theirs / name),
        metrics(branch)[-2:] == metrics(theirs / name)[-2:] and weights(branch) == weights(theirs / name),
    ]
    print(f"| {name} | {' | '.join('same' if same else 'DIFFERENT' for same in found)} |", flush=True)
    return all(found)


def metrics(folder: Path) -> list[dict]:
    """The rows of metrics.jsonl, without what the clock says."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if not name.startswith(TIMED)} for row in rows]


def weights(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of weights of a folder, those of the value model and of adapters too."""
    files = (path for path in folder.rglob("*.safetensors") if "checkpoints" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


def older(command: str) -> str:
    """Where a stage's command was before all stood in one file."""
    return f"easyrlhf.cli.{command.removesuffix('_train')}"


if __name__ == "__main__":
    main()

"""Rewards that tell nothing apart, over the whole matrix: does any weight move?

    python benchmarks/constant_rewards.py --output_dir outputs/constant_rewards           # about 15 minutes on 2 cores
    python benchmarks/constant_rewards.py --layouts 1 --precisions bf16 --estimators rloo

Every case is six steps of a tiny policy, the real stage, whose reward is one number for every answer: numbers that
float32 and bf16 hold inexactly, groups of 2 to 16, every estimator, on one process, on two, and under ZeRO-3. A case
holds when the saved weights are the first ones bit for bit and all six updates were left out. Cases of a layout share
their processes, so that most of the time goes to training; DeepSpeed begins but once in a process, so under ZeRO-3 one
number and one group size stand for all.
"""

import json
import multiprocessing
import os
import shutil
import time
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path

import click

ESTIMATORS = {
    "grpo": {"stage": "grpo"},
    "grpo, batch": {"stage": "grpo", "scale_rewards": "batch"},
    "grpo, none": {"stage": "grpo", "scale_rewards": "none"},
    "gdpo": {"stage": "grpo", "multi_objective_aggregation": "normalize_then_sum"},
    "rloo": {"stage": "grpo", "advantage": "rloo"},
    "reinforce++": {"stage": "grpo", "advantage": "reinforce++"},
    "ppo": {"stage": "ppo"},
}
# the value model of PPO learns nothing, so that at lambda 1 every token's advantage is the score
PPO = {"num_ppo_epochs": 1, "lam": 1.0, "kl_coef": 0.0, "vf_coef": 0.0, "response_length": 4}
GRPO = {"num_iterations": 1, "max_completion_length": 4}
ZERO3 = "2, ZeRO-3"
LAYOUTS = {"1": (1, {}), "2": (2, {"deepspeed": "none"}), ZERO3: (2, {"deepspeed": "zero3"})}
VALUES = 0.1, 0.35, 0.7, 1.1, 1000.3, -3e-7
GROUPS = 2, 3, 4, 8, 16
STEPS, BATCH = 6, 16
HOLDS = {"unmoved": True, "skipped": STEPS}
FUNCTION = "def constant(completions, **_):\n    return [{value!r}] * len(completions)\n"


def listed(kind):
    """Reads an option whose items, of this kind, stand between semicolons."""
    return lambda _ctx, _param, text: [kind(item) for item in text.split(";")]


@click.command(help=__doc__)
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/constant_rewards", show_default=True)
@click.option("--layouts", default=";".join(LAYOUTS), show_default=True, callback=listed(str))
@click.option("--precisions", default="float32;bf16", show_default=True, callback=listed(str))
@click.option("--estimators", default=";".join(ESTIMATORS), show_default=True, callback=listed(str))
@click.option("--groups", default=";".join(map(str, GROUPS)), show_default=True, callback=listed(int))
@click.option("--values", default=";".join(map(str, VALUES)), show_default=True, callback=listed(float))
def main(output_dir: Path, layouts: list, precisions: list, estimators: list, groups: list, values: list):
    """Run every case; a row per layout, precision and estimator, and a line for every case that does not hold."""
    make_start(output_dir, values)
    print(f"| processes | precision | estimator | cases | weights unmoved | updates left out | s |\n|{'---|' * 7}")
    failed = 0
    for layout in layouts:
        for precision, estimator in product(precisions, estimators):
            began = time.monotonic()
            known = ESTIMATORS[estimator] | LAYOUTS[layout][1] | {"precision": precision}
            numbers = list(product(groups, values)) if layout != ZERO3 else [(groups[-1], values[0])]
            cases = [known | {"num_generations": group, "reward": value} for group, value in numbers]
            found = run_all(LAYOUTS[layout][0], output_dir, cases)
            for case, one in zip(cases, found, strict=True):
                if one != HOLDS:
                    print(f"  {case}: {one}", flush=True)
            unmoved, skipped = (sum(one[name] for one in found) for name in HOLDS)
            failed += sum(one != HOLDS for one in found)
            cells = f"{len(found)} | {unmoved} | {skipped} of {STEPS * len(found)} | {time.monotonic() - began:.0f}"
            print(f"| {layout} | {precision} | {estimator} | {cells} |", flush=True)
    if failed:
        raise click.ClickException(f"{failed} cases do not hold")


def make_start(folder: Path, values: list[float]) -> None:
    """A tiny random policy, prompts for it, and a reward function for every value."""
    from easyrlhf.config import InitConfig
    from easyrlhf.tools.init import init_model

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = ["red", "blue", "green", "black", "white", "brown", "grey", "pink"]
    turns = [({"role": "user", "content": f"Say {word}."}, {"role": "assistant", "content": word}) for word in words]
    rows = [{"messages": pair} for pair in turns]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = [{"prompt": row["messages"][:1]} for row in rows]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    for value in values:
        (folder / f"reward_{value}.py").write_text(FUNCTION.format(value=value))
    init_model(InitConfig(train_data=str(folder / "rows.jsonl"), output_dir=str(folder / "start"), vocab_size=320))


def run_all(count: int, folder: Path, cases: list[dict]) -> list[dict]:
    """What became of the weights and the updates of each case, in so many processes."""
    from easyrlhf.launch import free_port

    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    numbered = [(case, free_port()) for case in cases]
    workers = [context.Process(target=work, args=(rank, count, folder, numbered, results)) for rank in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise click.ClickException("a process failed, see above")
    return [results.get() for _ in cases]


def work(rank: int, count: int, folder: Path, cases: list[tuple[dict, int]], results) -> None:
    """One process of a layout: it runs every case, and the first process tells what became of it."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    if count > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    for case, port in cases:
        os.environ["MASTER_PORT"] = str(port)
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            train(folder, **case)
        if rank == 0:
            results.put(outcome(folder))


def train(folder: Path, stage: str, reward: float, **settings) -> None:
    """Six steps of a stage with this reward."""
    from easyrlhf.config import GRPOConfig, PPOConfig
    from easyrlhf.stages import lifecycle
    from easyrlhf.stages.online import train_grpo, train_ppo

    lifecycle.plot_run = lifecycle.write_report = lambda *_, **__: None  # most of the time of runs this short
    config, run, known = (PPOConfig, train_ppo, PPO) if stage == "ppo" else (GRPOConfig, train_grpo, GRPO)
    batch = BATCH - BATCH % settings["num_generations"]
    common_settings = {
        "model": str(folder / "start"),
        "train_data": str(folder / "prompts.jsonl"),
        "reward_funcs": f"{folder / f'reward_{reward}.py'}:constant",
        "output_dir": str(folder / "run"),
        "overwrite": True,
        "batch_size": batch,
        "total_episodes": STEPS * batch,
        "num_mini_batches": 1,
        "learning_rate": 1e-2,
        "missing_eos_penalty": 0.0,
        "max_length": 64,
        "max_prompt_length": 40,
        "num_sample_generations": 0,
        "log_rollouts": 0,
        "devices": "cpu",
        "report_to": "none",
    }
    run(config(**common_settings | known | settings))


def outcome(folder: Path) -> dict:
    """Whether the run's weights are the start's in its precision, bit for bit, and how many updates were left out."""
    import torch
    from safetensors.torch import load_file

    before, after = (load_file(folder / name / "model.safetensors") for name in ("start", "run"))
    unmoved = before.keys() == after.keys() and all(
        torch.equal(before[name].to(after[name].dtype), after[name]) for name in before
    )
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return {"unmoved": unmoved, "skipped": int(sum(row.get("policy/skipped_steps", 0) for row in rows))}


if __name__ == "__main__":
    main()

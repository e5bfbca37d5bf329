"""What a run says that it will do, before it does it: its data, its models with their memory, its steps, and where."""

from dataclasses import dataclass, field

import torch

from easyrlhf.config import OnlineConfig, TrainConfig
from easyrlhf.config.common_fields import DEFAULT_LENGTH
from easyrlhf.data.tokens import TokenData
from easyrlhf.engine import processes
from easyrlhf.engine.device import choose_threads, dtype_name, other_device
from easyrlhf.engine.sharding import spreads_by_fsdp
from easyrlhf.models.load import positions_of
from easyrlhf.offline.evaluations import Evaluations
from easyrlhf.report.console import Console
from easyrlhf.run.run import Run
from easyrlhf.stages.checks import count_of
from easyrlhf.stages.models import count_parameters, describe_model
from easyrlhf.stages.remarks import say_what_is_trained_on


@dataclass(frozen=True)
class RunPlan:
    """What a run is to do beside what its settings say.

    title        the stage's, for people
    steps        optimiser steps, or rollouts
    data         name → rows, as the stage read them; None where there are none
    models       name → folder or hub id of every model
    beside       name → what a model, or a part that has none, is in place of weights of its own
    evaluations  None without held-out rows
    """

    title: str
    steps: int
    data: dict[str, TokenData | None]
    models: dict[str, str]
    beside: dict[str, str] = field(default_factory=dict)
    evaluations: Evaluations | None = None


def print_plan(run: Run, console: Console, plan: RunPlan) -> None:
    """Choose the CPU threads for models of this size, and say what will be done: data, models with memory, plan."""
    config = run.config
    sizes = {path: count_parameters(path, config.trust_remote_code) for path in set(plan.models.values())}
    choose_threads(run.device, max(sizes.values()))
    for line in run.passed_over:
        console.warn(f"{line}; the one before is continued")
    for line in run.remarks:
        console.warn(line)
    if config.offload_activations and run.device.type != "cuda":
        console.warn(f"--offload_activations does nothing on {run.device.type}, whose memory is the host's")
    say_what_is_trained_on(config, plan.data, console)
    sections = {
        "data": [line for part in plan.data.values() if part for line in part.summary.lines()],
        "models": [
            f"{name}: {plan.beside[name]}"
            if name in plan.beside
            else describe_model(run, name, plan.models[name], sizes[plan.models[name]])
            for name in plan.models | plan.beside
        ],
        "plan": plan_lines(run, plan),
    }
    if config.dry_run:
        sections["settings"] = config.to_yaml().splitlines()
    console.summary(plan.title, sections)


def plan_lines(run: Run, plan: RunPlan) -> list[str]:
    """The steps, where they are computed, and what else is worth a line."""
    config = run.config
    lines = [
        f"{plan.steps:,} steps of {config.batch_size} ({work_of(config, plan.steps)}) at learning rate "
        f"{config.learning_rate:g}, {run.beginning()}",
        f"{place_of(run)} in {dtype_name(run.dtype)}, seed {config.seed}, into {config.output_dir}",
    ]
    if plan.evaluations:
        lines.append(plan.evaluations.line())
    if config.max_length == positions_of(config.model, trust_remote_code=config.trust_remote_code) < DEFAULT_LENGTH:
        lines.append(f"rows of up to {config.max_length} tokens, for which {config.model} was made")
    if config.push_to_hub:
        lines.append(f"{upload_planned(config)} when it is complete")
    return lines


def work_of(config: TrainConfig, steps: int) -> str:
    """What the steps come from: `rollouts of 64 completions`, `3 epochs`, `of at most 3 epochs`."""
    if isinstance(config, OnlineConfig):
        return f"rollouts of {config.batch_size} completions"
    epochs = count_of(config.epochs, "epoch")
    return f"of at most {epochs}" if steps == config.max_steps else epochs


def place_of(run: Run) -> str:
    """Where the run computes: `on cuda in 4 processes, DeepSpeed ZeRO-2,`, `on cpu with 2 threads`."""
    config, several = run.config, processes.size() > 1
    place = f"on {run.device.type if several else run.device}"
    if several:
        place += f" in {processes.size()} processes"
        if config.context_parallel_size > 1:
            place += f", {config.context_parallel_size} to a row"
    if run.device.type == "cpu":
        place += f" with {count_of(torch.get_num_threads(), 'thread')}{' each' if several else ''}"
    place += other_device(config.devices, run.device)
    if run.zero:
        place += f", DeepSpeed ZeRO-{run.zero['zero_optimization']['stage']},"
    if spreads_by_fsdp(run.config):
        place += ", FSDP2,"
    return place


def upload_planned(config: TrainConfig) -> str:
    """What --push_to_hub does, for people."""
    whose = "private" if config.hub_private else "public"
    return f"uploads {config.output_dir}, without checkpoints, to {config.push_to_hub} on the hub ({whose})"

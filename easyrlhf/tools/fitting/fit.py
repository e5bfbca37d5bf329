"""easyrlhf fit: how much memory a stage needs on each device, and what would make it fit; docs/memory.md."""

import torch

from easyrlhf.config import FitConfig, TrainConfig
from easyrlhf.config.tools import MACHINE
from easyrlhf.engine.device import dtype_name, memory_of, pick_device, pick_dtype
from easyrlhf.errors import InputError
from easyrlhf.launch import check_sharers
from easyrlhf.tools.fitting.memory import KINDS, STATES, VLLM, Machine, MemoryPlan
from easyrlhf.tools.fitting.remedies import cheapest
from easyrlhf.tools.fitting.stage_memory import memory_plan, row_length, token_budget, with_models

GIB = 2**30
PROCESS = (
    "these are tensors; the process takes about 0.5 GiB more for Python and its libraries, and up to a third more\n"
    "that its allocator keeps for the next step (--no_reuse_memory) and kernels work in"
)


def print_fit(config: TrainConfig, own: FitConfig) -> MemoryPlan:
    """Print what the stage needs on each device, whether it fits, and what would make it fit; returns the plan.

    Raises InputError when a model's configuration cannot be read, or its passes cannot be told beforehand.
    """
    machine = machine_of(own, config)
    config = with_models(config)
    plan = memory_plan(config, machine)
    print("\n".join([*heading(config, machine), "", *memory_table(plan), "", *fits_in_words(plan)]))
    if not plan.fits:
        print("\n".join(["", *cheapest(config, machine, memory_plan)]))
    return plan


def machine_of(own: FitConfig, config: TrainConfig) -> Machine:
    """The devices that --devices names. Raises InputError for a GPU that is not there, or DeepSpeed without one."""
    devices = (own.devices or config.devices or "").replace(" ", "").lower()
    named = MACHINE.fullmatch(devices)
    if named and named["memory"]:
        kind, count = "cpu" if devices.startswith("cpu") else "cuda", int(named["count"] or 1)
        memory = float(named["memory"]) * GIB
    else:
        device, count = pick_device(devices or None), 1
        kind, memory = device.type, memory_of(device)
    if config.sharding != "none" and (kind == "cpu" or own.deepspeed != "none"):
        why = "needs GPUs; give --devices with their memory, such as 8x80GB"
        if own.deepspeed != "none":
            why = f"--deepspeed {own.deepspeed} spreads the models too; give one"
        raise InputError(f"--sharding {config.sharding}: {why}")
    if kind == "cpu" and own.deepspeed != "none":
        raise InputError(f"--deepspeed {own.deepspeed}: needs GPUs; give --devices with their memory, such as 8x80GB")
    if config.load_in_4bit and own.deepspeed.startswith("zero3"):
        raise InputError(f"--deepspeed {own.deepspeed}: loses the scales of --load_in_4bit; give zero2")
    check_sharers(config.context_parallel_size, count)
    return Machine(kind, count, memory, own.deepspeed if config.sharding == "none" else config.sharding)


# --- what is printed


def heading(config: TrainConfig, machine: Machine) -> list[str]:
    """What the numbers are of."""
    device = torch.device(machine.kind)
    what = "GPU" if machine.kind == "cuda" else "CPU"
    split = "" if machine.deepspeed == "none" else f", {machine.deepspeed}"
    passes = f"{token_budget(config, machine):,} tokens in a forward pass"
    if config.context_parallel_size > 1:
        split += f", {config.context_parallel_size} to a row"
        passes += " on each device"
    return [
        f"{config.stage}_train on {machine.count} {what}{'s' if machine.count > 1 else ''} of "
        f"{machine.memory / GIB:,.0f} GiB{split}, in {dtype_name(pick_dtype(config.precision, device))}",
        f"{passes}, rows of up to {row_length(config):,} tokens",
    ]


def memory_table(plan: MemoryPlan) -> list[str]:
    """Bytes per device: a line per model, then a line per phase."""
    unit, name = (GIB, "GiB") if plan.needed >= GIB else (2**20, "MiB")

    def row(title: str, cells: list[str]) -> str:
        return f"{title:<28}" + "".join(f"{cell:>13}" for cell in cells)

    def number(size: float) -> str:
        return f"{size / unit:,.2f}" if size else "-"

    lines = [row(f"{name} per device", list(STATES))]
    for model, held in plan.models.items():
        states = held.on_device(plan.machine)
        lines.append(row(model, [number(states[kind]) for kind in STATES]))
    kinds = [kind for kind in KINDS if kind != VLLM or any(kind in phase.working for phase in plan.phases)]
    lines += ["", row("phase", [*kinds, "in all"])]
    for phase in plan.phases:
        found = phase.on_device(plan.models, plan.machine)
        mark = "  <- peak" if phase is plan.peak else ""
        lines.append(row(phase.name, [number(found[kind]) for kind in kinds] + [number(sum(found.values()))]) + mark)
    return lines


def fits_in_words(plan: MemoryPlan) -> list[str]:
    """Whether it fits, in words."""
    machine, gap = plan.machine, abs(plan.machine.usable - plan.needed) / GIB
    size = f"{machine.memory / GIB:,.0f} GiB (10 % kept free)"
    fits = (
        f"fits in {size} with {gap:,.1f} GiB to spare" if plan.fits else f"does not fit in {size}: {gap:,.1f} GiB short"
    )
    lines = [f"peak: {plan.peak.name}, {plan.needed / GIB:,.2f} GiB: {fits}"]
    if machine.kind == "cpu":
        lines.append(PROCESS)
    if plan.host:
        lines.append(f"and {plan.host / GIB:,.2f} GiB of the host's memory")
    return lines

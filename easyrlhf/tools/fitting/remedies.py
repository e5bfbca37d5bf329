"""What would make a stage fit: changes of its settings and of its machine, the cheapest first."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from easyrlhf.config import OnlineConfig, ScoredConfig, TrainConfig
from easyrlhf.engine.device import pick_dtype
from easyrlhf.models.context_parallel import heads_of
from easyrlhf.models.load import load_config
from easyrlhf.tools.fitting.memory import FSDP2, SHARDED, WEIGHTS, Machine, MemoryPlan
from easyrlhf.tools.fitting.stage_memory import answers, decoded_at_once, row_length, token_budget

GIB = 2**30
WORTH = 0.99  # a change must leave at most this share of the peak
RANK = 16
MOST_DEVICES = 1024
SPLITS = ("zero2", "zero3", "zero3_offload")

Planner = Callable[[TrainConfig, Machine], MemoryPlan]


@dataclass(frozen=True)
class Remedy:
    """One change: the flags that make it, and what they set in the stage's settings and of the machine."""

    flags: str
    settings: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)


def lower_micro_batch_tokens(config: TrainConfig, machine: Machine) -> Iterator[Remedy]:
    """Fewer tokens in a forward pass, down to those of one row: the same result, a little slower."""
    tokens = token_budget(config, machine)
    fewest = row_length(config) * answers(config)
    while tokens > fewest:
        tokens = max(tokens // 2, fewest)
        yield Remedy(f"--micro_batch_tokens {tokens}", {"micro_batch_tokens": tokens})


def decode_fewer(config: TrainConfig, machine: Machine) -> Iterator[Remedy]:
    """Fewer completions decoded together: the same result, slower."""
    name = "local_rollout_forward_batch_size"
    alone = isinstance(config, OnlineConfig) and not config.uses_vllm
    rows = min(decoded_at_once(config, machine), config.batch_size) // 2 if alone else 0
    while rows:
        yield Remedy(f"--{name} {rows}", {name: rows})
        rows //= 2


def less_vllm(config: TrainConfig, machine: Machine) -> Iterator[Remedy]:
    """A smaller share for a vLLM beside the training: the same result, slower."""
    if config.colocates_vllm:
        for share in (0.2, 0.1):
            if share < config.vllm_gpu_memory_utilization:
                yield Remedy(f"--vllm_gpu_memory_utilization {share}", {"vllm_gpu_memory_utilization": share})


def checkpoint(config: TrainConfig, machine: Machine) -> Iterator[Remedy]:
    """Activations computed again in the backward pass: the same result, a third slower."""
    if not config.gradient_checkpointing:
        yield Remedy("--gradient_checkpointing", {"gradient_checkpointing": True})


def offload(config: TrainConfig, machine: Machine) -> Iterator[Remedy]:
    """The states between layers in the host's memory: the same result, slower."""
    if config.gradient_checkpointing and not config.offload_activations and machine.kind == "cuda":
        yield Remedy("--offload_activations", {"offload_activations": True})


def share_rows(config: TrainConfig, machine: Machine) -> Iterator[Remedy]:
    """Several devices to a row, where one row is all that a pass holds: the same result, with more to exchange."""
    alone = row_length(config) * answers(config) >= token_budget(config, machine)
    if machine.kind != "cuda" or not (alone and config.gradient_checkpointing) or config.stage == "ebft":
        return
    for size in (size for size in (2, 4, 8) if machine.count % size == 0 and size > config.context_parallel_size):
        if heads_of(load_config(config.model, trust_remote_code=config.trust_remote_code)) % size == 0:
            yield Remedy(f"--context_parallel_size {size}", {"context_parallel_size": size})


def use_bf16(config: TrainConfig, machine: Machine) -> Iterator[Remedy]:
    """Half the bytes for weights and activations."""
    if pick_dtype(config.precision, torch.device(machine.kind)) == torch.float32:
        yield Remedy("--precision bf16", {"precision": "bf16"})


def use_lora(config: TrainConfig, machine: Machine) -> Iterator[Remedy]:
    """Adapters trained in place of all weights."""
    if not config.lora_r:
        yield Remedy(f"--lora_r {RANK}", {"lora_r": RANK})


def share(config: TrainConfig, machine: Machine) -> Iterator[Remedy]:
    """One backbone for all models of an online stage, where the reward model can be an adapter of it."""
    if config.sharding != "none" or not isinstance(config, ScoredConfig):
        return
    if config.share_backbone or config.ref_model != config.model:
        return
    reward = config.reward_model
    if reward in (None, config.model) or os.path.isdir(os.path.join(reward, "adapter")):
        rank = config.lora_r or RANK
        yield Remedy(f"--lora_r {rank} --share_backbone", {"lora_r": rank, "share_backbone": True})


def use_four_bit(config: TrainConfig, machine: Machine) -> Iterator[Remedy]:
    """The base below the adapters in 4 bits, where its weights stay in one piece and nobody else samples."""
    alone = not config.uses_vllm and WEIGHTS not in SHARDED[machine.deepspeed]
    if config.lora_r and not config.load_in_4bit and alone:
        yield Remedy("--load_in_4bit", {"load_in_4bit": True})


def use_deepspeed(config: TrainConfig, machine: Machine) -> Iterator[Remedy]:
    """DeepSpeed, as far as it is not used already."""
    if machine.kind == "cpu":
        return
    order = list(SHARDED)
    for deepspeed in SPLITS[: 1 if config.load_in_4bit else None]:
        splits = machine.count > 1 or deepspeed.endswith("offload")
        if splits and order.index(deepspeed) > order.index(machine.deepspeed):
            yield Remedy(f"--deepspeed {deepspeed}", machine={"deepspeed": deepspeed})


def more_devices(config: TrainConfig, machine: Machine) -> Iterator[Remedy]:
    """Twice as many devices, and again, with everything split among them."""
    deepspeed = "zero2" if config.load_in_4bit else "zero3_offload" if machine.offloads else "zero3"
    count = 2 * machine.count
    while machine.kind == "cuda" and count <= MOST_DEVICES:
        flags = f"--devices {count}x{machine.memory / GIB:g}GB --deepspeed {deepspeed}"
        if machine.deepspeed == FSDP2:
            deepspeed, flags = FSDP2, f"--devices {count}x{machine.memory / GIB:g}GB --sharding fsdp2"
        yield Remedy(flags, machine={"count": count, "deepspeed": deepspeed})
        count *= 2


CHANGES = (
    lower_micro_batch_tokens,
    decode_fewer,
    less_vllm,
    checkpoint,
    offload,
    share_rows,
    use_bf16,
    use_lora,
    share,
    use_four_bit,
    use_deepspeed,
)


def cheapest(config: TrainConfig, machine: Machine, plan_of: Planner) -> list[str]:
    """Lines on what would make the stage fit: each change alone up to the first that does, else several together."""
    lines = ["what would lower it, the cheapest first:"]

    def plan_with(steps: list[Remedy]) -> MemoryPlan:
        return plan_of(replace(config, **merged(steps, "settings")), replace(machine, **merged(steps, "machine")))

    needed = plan_of(config, machine).needed
    for change in CHANGES:
        step, plan = strongest(change(config, machine), [], needed, plan_with)
        if step is None:
            continue
        lines.append(f"  {step.flags:<52} peak {plan.needed / GIB:>9,.2f} GiB{', fits' if plan.fits else ''}")
        if plan.fits:
            return [*lines, f"recommended: add {step.flags}"]
    steps, plan = remedies_together(config, machine, plan_with)
    flags = " ".join(step.flags for step in steps)
    if not plan.fits:
        return [*lines, f"even together they leave {plan.needed / GIB:,.2f} GiB ({flags}): take a smaller model"]
    return [*lines, f"recommended: none is enough alone; add {flags}: peak {plan.needed / GIB:,.2f} GiB"]


def remedies_together(config: TrainConfig, machine: Machine, plan_with: Callable) -> tuple[list[Remedy], MemoryPlan]:
    """Steps one after another until the stage fits, without those that are not needed any more in the end."""
    steps, plan, wanted = [], plan_with([]), [*CHANGES]
    while wanted and not plan.fits:
        change = wanted.pop(0)
        now = replace(config, **merged(steps, "settings")), replace(machine, **merged(steps, "machine"))
        step, found = strongest(change(*now), steps, plan.needed, plan_with)
        if step is not None:
            steps, plan = [*steps, step], found
            wanted = [*CHANGES]  # what did not lower the peak before may do so now
        elif not wanted and change is not more_devices:
            wanted = [more_devices]
    for step in steps[-2::-1]:  # the dearest first
        rest = [other for other in steps if other is not step]
        if (without := plan_with(rest)).fits:
            steps, plan = rest, without
    return steps, plan


def merged(steps: list[Remedy], name: str) -> dict[str, Any]:
    """What all steps set; a later one goes before an earlier."""
    return {key: value for step in steps for key, value in getattr(step, name).items()}


def strongest(
    levels: Iterator[Remedy], steps: list[Remedy], needed: float, plan_with: Callable
) -> tuple[Remedy | None, MemoryPlan | None]:
    """The first of a change's levels with which the stage fits, else the last; on top of steps, with its plan.

    (None, None) when the change hardly lowers the peak.
    """
    levels = list(levels)
    if not levels or (last := plan_with([*steps, levels[-1]])).needed > WORTH * needed:
        return None, None
    if last.fits:
        return next((step, plan) for step in levels if (plan := plan_with([*steps, step])).fits)
    return levels[-1], last

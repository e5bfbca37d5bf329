"""Proof that an optimiser step has changed what it should: the first of a run is looked at, weight by weight."""

import math

import torch

from easyrlhf.engine import processes

MASTER, MOMENTS = "master", ("exp_avg", "exp_avg_sq")  # parts of what an engine gives of a weight
BETAS = (0.9, 0.999)
Mark = tuple[float, float]


def weight_marks(engine) -> dict[str, Mark]:
    """Two numbers of every trained weight's float32 form, which are others when any element is another."""
    found = {}
    for name in engine.trained:
        master = engine.gathered(name)[MASTER].detach()
        found[name] = master.sum(dtype=torch.float64).item(), master.norm(dtype=torch.float64).item()
    return found


def stuck(engine, before: dict[str, Mark], asked: set[str], learning_rate: float) -> list[str]:
    """The weights that are as before a step that had a gradient for them, and not for want of digits.

    asked  the weights that this process had a gradient for, as far as it can see
    """
    steps, after = engine.adam_steps(), weight_marks(engine)
    same = [name for name, mark in before.items() if after[name] == mark]
    return [name for name in same if proof_is_due(engine, name, steps.get(name, 0), name in asked, learning_rate)]


def proof_is_due(engine, name: str, step: int, asked: bool, learning_rate: float) -> bool:
    """Whether Adam's step on the weight's element of the largest gradient outgrows the rounding of float32."""
    found = engine.gathered(name)
    if step == 0 or MOMENTS[0] not in found:  # Adam does not know the weight
        return processes.any_of(asked)
    master, first, second = (found[part].detach().flatten() for part in (MASTER, *MOMENTS))
    place = max((first.argmax(), first.argmin()), key=lambda index: first[index].abs().item())
    mean, square, weight = (tensor[place].item() for tensor in (first, second, master))
    mean, square = mean / (1 - BETAS[0] ** step), square / (1 - BETAS[1] ** step)
    change = learning_rate * abs(mean) / (math.sqrt(square) + engine.settings.adam_eps)
    return change > torch.finfo(torch.float32).eps * abs(weight)

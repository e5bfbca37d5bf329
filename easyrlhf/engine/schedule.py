"""How the learning rate goes through a run: as transformers' `get_scheduler` has it, number by number.

Ours, because to import that one imports its trainer, with it peft and bitsandbytes: a second of every start.
"""

import math


def share_of_rate(step: int, *, schedule: str, warmup_steps: int, total_steps: int) -> float:
    """The share of the learning rate at a step: in a line from 0 through the warm-up, then by the schedule.

    step      steps that are done
    schedule  linear falls in a line to 0 at the end, cosine in half a wave, constant stays
    """
    if step < warmup_steps:
        return step / warmup_steps
    if schedule == "constant":
        return 1.0
    rest = max(1, total_steps - warmup_steps)
    if schedule == "linear":
        return max(0.0, (total_steps - step) / rest)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((step - warmup_steps) / rest))))

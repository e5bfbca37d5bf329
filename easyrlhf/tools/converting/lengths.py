"""Rules about sizes: examples of a step and of a rollout, lengths of prompts and answers."""

import math
from typing import Any

from easyrlhf.config.common_fields import DEFAULT_LENGTH
from easyrlhf.tools.converting.draft import Draft, finite_or_none, whole_from_one

ONLINE = ("ppo", "grpo", "ebft")
PER_DEVICE = ("per_device_train_batch_size", "micro_batch_size", "per_gpu_train_batch_size")
PER_DEVICE += ("per_device_training_batch_size",)
ACCUMULATION = ("gradient_accumulation_steps",)
LIMITS = {"ppo": "response_length", "grpo": "max_completion_length", "ebft": "max_completion_length"}


def batch(draft: Draft, key: str, value: Any) -> None:
    """Examples of a device times accumulation times devices."""
    per_device = draft.take(*PER_DEVICE)
    steps = draft.take(*ACCUMULATION)
    first, second = (
        finite_or_none(per_device if per_device is not None else 1),
        finite_or_none(steps if steps is not None else 1),
    )
    if first is None or second is None:
        draft.leave("batch size", [per_device, steps], "not a number; batch_size counts examples of a step")
        return
    said = f"{first:g} on a device x {second:g} accumulated x {devices_of(draft)}"
    examples = int(first * second) * draft.devices
    online_batch(draft, examples, said) if draft.stage in ONLINE else draft.set("batch_size", examples, said)


def devices_of(draft: Draft) -> str:
    """The number of devices in words, and where it is from."""
    return f"{draft.devices} device{'s' * (draft.devices != 1)} (--num_devices)"


def online_batch(draft: Draft, examples: int, said: str) -> None:
    """A rollout of TRL and its kin: `examples` completions a step, several steps when more are generated at once."""
    steps = finite_or_none(draft.take("steps_per_generation")) or finite_or_none(
        draft.take("num_mini_batches", "ppo_buffer_size")
    )
    total = finite_or_none(draft.take("generation_batch_size"))
    accumulated = finite_or_none(draft.theirs.get("gradient_accumulation_steps")) or 1
    parts = 1
    if draft.stage == "ppo":
        parts = int(steps or 1)  # PPOTrainer: so many minibatches, of `examples` each
    elif total:
        parts = max(1, round(total / examples))
    elif steps:
        parts = max(1, round(steps / accumulated))
    set_rollout(draft, examples * parts, parts, said + (f" x {parts} minibatches" if parts > 1 else ""))


def set_rollout(draft: Draft, completions: int, parts: int, said: str) -> None:
    """batch_size and num_mini_batches, the former rounded up to whole groups of completions."""
    group = whole_from_one(draft.find("num_generations") or draft.settings.get("num_generations"), 0)
    group = group or draft.own["num_generations"].default
    unit = math.lcm(group, parts)
    rounded = -(-completions // unit) * unit
    draft.set("batch_size", rounded, said + (f", rounded up to groups of {group}" if rounded != completions else ""))
    if parts > 1:
        draft.set("num_mini_batches", parts)


def completion_limit(draft: Draft, key: str, value: Any) -> None:
    """The longest completion to sample."""
    draft.keep(key, value, LIMITS.get(draft.stage, "response_length"))


def finish_lengths(draft: Draft) -> None:
    """Theirs bound the whole sequence; ours bounds the prompt beside it, and both have to agree."""
    settings = draft.settings
    longest, prompt = (whole_from_one(settings.get(n), 0) for n in ("max_length", "max_prompt_length"))
    if settings.get("ebft_mode") == "stride":  # what follows from max_length is right there
        return
    if draft.stage in ONLINE:
        limit = LIMITS[draft.stage]
        completion = whole_from_one(settings.get(limit), draft.own[limit].default)
        if longest > completion and not prompt:
            draft.set("max_prompt_length", longest - completion, "max_length without the completion")
        elif (prompt or DEFAULT_LENGTH // 2) + completion > (longest or DEFAULT_LENGTH):
            draft.drop("max_length")
            said = f"; max_length: {longest} there" if longest else ""
            draft.set(
                "max_length", (prompt or DEFAULT_LENGTH // 2) + completion, "prompt and completion together" + said
            )
    elif longest and (not prompt or prompt >= longest):
        draft.drop("max_prompt_length")
        draft.set("max_prompt_length", longest - 1, "theirs bounds prompt and answer together alone")

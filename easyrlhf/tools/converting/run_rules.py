"""Rules for settings of a run that several programs share: steps, precision, kernels, DeepSpeed, trackers, the hub."""

import math
import re
from typing import Any

from easyrlhf.config.lists import split_list
from easyrlhf.config.reporting import EVERY_TRACKER, NO_TRACKER, TRACKERS
from easyrlhf.tools.converting.draft import Draft, Rule, finite_or_none, truth

KERNELS = {"fa2": "flash_attention_2", "flash_attn": "flash_attention_2", "fa3": "flash_attention_3"}
PRECISIONS = {"bfloat16": "bf16", "bf16": "bf16", "float32": "float32", "fp32": "float32", "auto": "auto"}
SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant"}


def epochs(draft: Draft, key: str, value: Any) -> None:
    """Whole passes: a part of one is rounded up, and that is said."""
    count = finite_or_none(value)
    if count is None or count <= 0:
        return draft.leave(key, value, "here epochs: a whole number of passes")
    whole = math.ceil(count)
    return draft.set("epochs", whole, "" if whole == count else f"{key}: {count:g}; max_steps ends a run earlier")


def warmup_steps(draft: Draft, key: str, value: Any) -> None:
    """A share of all steps: needs their number, unless it is none or a share already."""
    steps, most = finite_or_none(value), finite_or_none(draft.theirs.get("max_steps"))
    if steps is None or steps < 0:
        draft.leave(key, value, "here warmup_ratio, a share of all steps")
    elif steps < 1:
        if "warmup_ratio" not in draft.theirs:
            draft.set("warmup_ratio", steps)
    elif most and most > steps:
        draft.set("warmup_ratio", steps / most, f"{key}: {steps:g} of max_steps {most:g}")
    else:
        draft.leave(key, value, f"here warmup_ratio: {steps:g} divided by the number of steps, which --dry_run says")


def max_steps(draft: Draft, key: str, value: Any) -> None:
    """-1 and 0 mean no limit there."""
    if (finite_or_none(value) or 0) > 0:
        draft.keep(key, value, "max_steps")


def schedule(draft: Draft, key: str, value: Any) -> None:
    """How the learning rate falls."""
    name = SCHEDULES.get(str(value).lower())
    if name is None:
        draft.leave(key, value, "here lr_scheduler: linear, cosine or constant")
    else:
        draft.set("lr_scheduler", name, "after the warm-up" if value == "constant_with_warmup" else "")


def every_so_many_rule(name: str) -> Rule:
    """The rule for eval_steps, save_steps and log_steps: a share of all steps is none of ours."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        count = finite_or_none(value)
        if count is not None and 0 < count < 1:
            draft.leave(key, value, f"here {name} counts steps; it is {value} of all steps there")
        elif count is not None:
            draft.keep(key, int(count), name)
        else:
            draft.leave(key, value, f"here {name}: a number of steps")

    return rule


def strategy(name: str) -> Rule:
    """The rule for save_strategy and eval_strategy: steps is ours, no switches off, an epoch cannot be counted."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        word = str(value).lower() if value is not False else "no"
        if word == "no" and name == "save_steps":
            draft.set(name, 0, "at the end alone")
        elif word == "no":
            draft.leave(key, value, "without valid_data nothing is evaluated")
        elif word != "steps":
            draft.leave(key, value, f"here {name}: a number of steps; left out, 10 times a run")

    return rule


def bf16_rule(draft: Draft, key: str, value: Any) -> None:
    """One precision: bf16, or float32 when no other is asked for."""
    if str(value).lower() == "auto":
        draft.set("precision", "auto")
    elif truth(value):
        draft.set("precision", "bf16")
    elif not truth(draft.theirs.get("fp16", False)):
        draft.set("precision", "float32")


def fp16(draft: Draft, key: str, value: Any) -> None:
    """It overflows; nothing to say where it is off."""
    if truth(value):
        draft.leave(key, value, "here precision: bf16 or float32; fp16 is not used, it overflows")


def dtype(draft: Draft, key: str, value: Any) -> None:
    """transformers' and ms-swift's way of saying precision."""
    name = PRECISIONS.get(str(value).lower())
    draft.set("precision", name) if name else draft.leave(key, value, "here precision: auto, float32 or bf16")


def attention_rule(draft: Draft, key: str, value: Any) -> None:
    """A kernel by name; "auto" and "disabled" leave the choice."""
    if truth(value):
        name = {"sdp_attention": "sdpa", "eager_attention": "eager", "flex_attention": "flex_attention"}.get(key)
        draft.set("attn_implementation", name or "flash_attention_2")
    elif isinstance(value, str) and value.lower() not in ("auto", "disabled", "none", "false"):
        draft.set("attn_implementation", KERNELS.get(value, value))


def checkpointing(draft: Draft, key: str, value: Any) -> None:
    """A switch, also where theirs names a variant ("unsloth")."""
    on = truth(value) or (isinstance(value, str) and value.lower() not in ("false", "no", "off"))
    draft.set("gradient_checkpointing", on, "" if truth(value) == on else f"{key}: {value}")


def no_checkpointing(draft: Draft, key: str, value: Any) -> None:
    """LLaMA-Factory's opposite."""
    draft.set("gradient_checkpointing", not truth(value))


def deepspeed(draft: Draft, key: str, value: Any) -> None:
    """A preset's name where the file's name or content says the stage; else the file itself."""
    text = str(value).lower().rpartition("/")[2]
    named = re.search(r"(z|zero[_-]?|stage[_-]?)([0-3])", text)
    stage = named[2] if named else ""
    if isinstance(value, dict):
        section = value.get("zero_optimization")
        stage = str(section.get("stage", "0") if isinstance(section, dict) else 0)
    name = {"0": "none", "1": "zero2", "2": "zero2", "3": "zero3"}.get(stage)
    if name is None:
        draft.keep(key, value, "deepspeed", "its optimizer, batch sizes and precision must be auto or left out")
        return
    name += "_offload" * ("offload" in text and name != "none")
    draft.set("deepspeed", name, "" if text == name else f"{key}: {value}" if isinstance(value, str) else key)


def report_to_rule(draft: Draft, key: str, value: Any) -> None:
    """Those trackers of a list that are ours."""
    names = [str(name).lower() for name in (value if isinstance(value, list) else str(value).split(","))]
    ours = [name for name in names if name in TRACKERS]
    alone = next((name for name in (EVERY_TRACKER, NO_TRACKER) if name in names), None)
    if not (ours or alone):
        draft.leave(key, value, f"here report_to: one or several of {', '.join(TRACKERS)}; or none")
    else:
        found = alone if alone == EVERY_TRACKER or not ours else ",".join(dict.fromkeys(ours))
        draft.set("report_to", found, "" if names == found.split(",") else f"{key}: {', '.join(names)}")


def tracker(name: str, project: str) -> Rule:
    """A switch of one tracker, or a project there, which switches it on; beside those that the file had before.

    project  the key whose value may be shown: elsewhere it may be a key to the account
    """

    def rule(draft: Draft, key: str, value: Any) -> None:
        if value in ("", False):
            return
        before = [one for one in split_list(draft.settings.get("report_to")) if one in TRACKERS and one != name]
        draft.drop("report_to")
        said = f"{key}: {value}; " if key == project else ""
        draft.set("report_to", ",".join([*before, name]), f"{said}its own variables name project and account")

    return rule


def push_to_hub_rule(draft: Draft, key: str, value: Any) -> None:
    """A switch there, whose repository stands beside it; without one it has the name of the output folder."""
    if not truth(value):
        return
    named = draft.find("hub_model_id") or str(draft.find("output_dir") or "").rstrip("/").rpartition("/")[2]
    if named:
        draft.set("push_to_hub", named, f"{key}: {value}")
    else:
        draft.leave(key, value, "here push_to_hub takes the repository, OWNER/NAME")


def hub_model_id(draft: Draft, key: str, value: Any) -> None:
    """The repository, which axolotl uploads to without a switch."""
    if draft.find("push_to_hub") is None and "base_model" in draft.theirs:
        draft.set("push_to_hub", value, key)
    elif not truth(draft.find("push_to_hub")):
        draft.leave(key, value, "here push_to_hub, which uploads; theirs names it only")

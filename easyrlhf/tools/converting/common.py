"""Rules for settings that several programs share: steps, batches, learning rates, LoRA, precision, evaluation."""

import math
import re
from typing import Any

from easyrlhf.config.base import split_list
from easyrlhf.config.common_fields import wrong_reward_function
from easyrlhf.config.reporting import EVERY_TRACKER, NO_TRACKER, TRACKERS
from easyrlhf.tools.converting.draft import Draft, Rule, finite_or_none, truth
from easyrlhf.tools.converting.lengths import ACCUMULATION, ONLINE, PER_DEVICE, batch, completion_limit

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


def lora_target(draft: Draft, key: str, value: Any) -> None:
    """Names of layers; "all" and "all-linear" are ours by default."""
    names = value if isinstance(value, list) else [name.strip() for name in str(value).split(",")]
    every = names in (["all"], ["all-linear"], ["all_linear"])
    draft.set("lora_target", "all-linear" if every else ",".join(map(str, names)))


def lora_target_linear(draft: Draft, key: str, value: Any) -> None:
    """axolotl's switch for all linear layers."""
    if truth(value) and "lora_target_modules" not in draft.theirs:
        draft.set("lora_target", "all-linear")


def adapter_folder(draft: Draft, key: str, value: Any) -> None:
    """An adapter to go on from is the model here: it is merged first."""
    first = value[0] if isinstance(value, list) and value else value
    if not first or (isinstance(value, list) and len(value) > 1) or "," in str(first):
        return draft.leave(key, value, "here model: one folder; export merges an adapter into it")
    draft.drop("model")
    base = draft.take("model_name_or_path", "base_model", "model")
    draft.set("model", first, f"an adapter, merged before training; its base: {base}" if base else "")


def loss_type(draft: Draft, key: str, value: Any) -> None:
    """TRL's lists of losses: the SFT loss beside DPO's is rpo_alpha."""
    names = value if isinstance(value, list) else [value]
    weights = draft.take("loss_weights")
    weights = weights if isinstance(weights, list) else [1.0] * len(names)
    losses = dict(zip(map(str, names), weights, strict=False))
    if "sft" in losses and len(losses) == 2 and "rpo_alpha" in draft.own:
        weight = losses.pop("sft")
        draft.set("rpo_alpha", weight, f"{key}: {', '.join(map(str, names))}")
    if len(losses) == 1 and "loss_type" in draft.own:
        draft.keep(key, next(iter(losses)), "loss_type")
    else:
        draft.leave(key, value, "here each method is a command with one loss")


def last_answer_rule(draft: Draft, key: str, value: Any) -> None:
    """Which answers of a conversation are learned: LLaMA-Factory's mask_history, ms-swift's loss_scale."""
    if truth(value) or value == "last_round":
        draft.set("learn", "last")
    elif value not in (False, "default"):
        draft.carry(key, value)


def thinking(draft: Draft, key: str, value: Any) -> None:
    """A variable of the template: true or false as words."""
    draft.keep(key, str(value).lower(), "enable_thinking")


def reward_funcs(draft: Draft, key: str, value: Any) -> None:
    """Functions of files; what theirs knows by a name of its own has none here."""
    names = [str(name).strip() for name in (value if isinstance(value, list) else str(value).split(","))]
    forms = [function_form(name) for name in names]
    if all(forms):
        draft.set("reward_funcs", ",".join(forms), "" if forms == names else f"{key}: {', '.join(names)}")
    elif len(names) == 1 and "/" in names[0]:
        draft.set("reward_model", names[0])
    else:
        draft.leave(key, value, "here reward_funcs: functions of your own, rewards.py:fn (easyrlhf docs rewards)")


def function_form(name: str) -> str:
    """file.py:function for a function in that form or as python imports it, trl:name for one of trl's; else ""."""
    wrong = wrong_reward_function(name)
    model = "/" in name and ".py" not in name
    return name if wrong is None else "" if model else wrong.partition("; write ")[2]


def scale_rewards(draft: Draft, key: str, value: Any) -> None:
    """A switch in older files."""
    word = {"true": "group", "false": "none"}.get(str(value).lower(), value)
    draft.keep(key, word, "scale_rewards")


def use_vllm(draft: Draft, key: str, value: Any) -> None:
    """A switch there, a choice here."""
    if truth(value) and "rollout" in draft.own:
        draft.set("rollout", "vllm")
    elif truth(value):
        draft.leave(key, value, f"{draft.stage}_train samples nothing")


def overlong_buffer(draft: Draft, key: str, value: Any) -> None:
    """The length over which the punishment grows."""
    draft.keep(key, value, "soft_punish_cache")


def beta(draft: Draft, key: str, value: Any) -> None:
    """The weight of KL, or of the method's loss, under any of its names."""
    draft.keep(key, value, "kl_coef" if draft.stage == "ppo" else "beta")


def sft_weight_rule(draft: Draft, key: str, value: Any) -> None:
    """The SFT loss beside a preference loss."""
    draft.keep(key, value, "rpo_alpha" if draft.stage == "dpo" else "cpo_alpha")


def truncation(draft: Draft, key: str, value: Any) -> None:
    """What happens to rows that are too long."""
    word = {"delete": "drop", "drop": "drop", "truncate": "truncate", "left": "truncate"}.get(str(value))
    if word is None:
        draft.leave(key, value, "here overlength: drop, or truncate, which cuts prompts from the left")
    else:
        draft.set("overlength", word, "" if word == value else f"{key}: {value}")


def held_out_rule(draft: Draft, key: str, value: Any) -> None:
    """A share of the rows to hold out; 0 is nothing to say, and a number of rows is no share."""
    share = finite_or_none(value)
    if share is not None and 0 < share < 1:
        draft.keep(key, share, "valid_split", "whole prompts")
    elif share != 0:
        draft.leave(key, value, "here valid_split, a share of the rows; easyrlhf data split writes files")


def renamed(name: str) -> Rule:
    """The rule for a setting that is ours under another name, whatever else the tables remark."""
    return lambda draft, key, value: draft.keep(key, value, name)


def switched_lora(draft: Draft, on: bool, rank: int, alpha: float, dropout: float, why_not: str) -> None:
    """LoRA's settings, with the defaults of theirs; where it is off, they have no effect there either."""
    theirs = {
        "lora_r": (("lora_r", "lora_rank"), rank),
        "lora_alpha": (("lora_alpha",), alpha),
        "lora_dropout": (("lora_dropout",), dropout),
    }
    for name, (keys, default) in theirs.items():
        given = next((key for key in keys if key in draft.theirs), None)
        value = draft.take(*keys)
        if not on and given:
            draft.leave(given, value, why_not)
        elif on and name == "lora_dropout" and draft.stage in ONLINE:
            if given and finite_or_none(value):
                draft.leave(given, value, "with dropout the policy before the update would be two policies")
        elif on:
            draft.keep(given or name, default if value is None else value, name, "" if given else "the default there")


def four_bit(draft: Draft, key: str, value: Any) -> None:
    """A switch, or a number of bits; qlora may have said so before."""
    if truth(value) or finite_or_none(value) == 4:
        draft.set("load_in_4bit", True, "" if key == "load_in_4bit" else f"{key}: {value}")
    elif finite_or_none(value):
        draft.carry(key, value)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("num_train_epochs", "num_epochs", "max_epochs", "epochs"), epochs),
    **dict.fromkeys((*PER_DEVICE, *ACCUMULATION), batch),
    **dict.fromkeys(("warmup_steps", "num_warmup_steps", "lr_warmup_steps"), warmup_steps),
    "max_steps": max_steps,
    **dict.fromkeys(("lr_scheduler", "lr_scheduler_type"), schedule),
    "eval_steps": every_so_many_rule("eval_steps"),
    "save_steps": every_so_many_rule("save_steps"),
    **dict.fromkeys(("logging_steps", "log_steps"), every_so_many_rule("log_steps")),
    "save_strategy": strategy("save_steps"),
    **dict.fromkeys(("eval_strategy", "evaluation_strategy"), strategy("eval_steps")),
    **dict.fromkeys(("bf16", "bfloat16"), bf16_rule),
    **dict.fromkeys(("fp16", "float16"), fp16),
    **dict.fromkeys(("torch_dtype", "dtype"), dtype),
    **dict.fromkeys(
        (
            "flash_attn",
            "attn_impl",
            "attn_implementation",
            "flash_attention",
            "sdp_attention",
            "eager_attention",
            "flex_attention",
        ),
        attention_rule,
    ),
    "gradient_checkpointing": checkpointing,
    "disable_gradient_checkpointing": no_checkpointing,
    "deepspeed": deepspeed,
    "report_to": report_to_rule,
    "push_to_hub": push_to_hub_rule,
    "hub_model_id": hub_model_id,
    "hub_private_repo": lambda draft, key, value: draft.set("hub_private", truth(value), ""),
    **dict.fromkeys(("wandb_project", "use_wandb"), tracker("wandb", "wandb_project")),
    **dict.fromkeys(("use_mlflow", "mlflow_experiment_name"), tracker("mlflow", "mlflow_experiment_name")),
    **dict.fromkeys(("use_trackio", "trackio_project_name"), tracker("trackio", "trackio_project_name")),
    **dict.fromkeys(("lora_target", "lora_target_modules", "target_modules"), lora_target),
    "lora_target_linear": lora_target_linear,
    **dict.fromkeys(("load_in_4bit", "quantization_bit", "quant_bits"), four_bit),
    **dict.fromkeys(("adapter_name_or_path", "lora_model_dir", "adapters"), adapter_folder),
    "loss_type": loss_type,
    **dict.fromkeys(("mask_history", "loss_scale"), last_answer_rule),
    "enable_thinking": thinking,
    "reward_funcs": reward_funcs,
    "scale_rewards": scale_rewards,
    "use_vllm": use_vllm,
    **dict.fromkeys(("soft_cache_length", "overlong_buffer_len"), overlong_buffer),
    **dict.fromkeys(("rl_beta", "pref_beta", "beta"), beta),
    "pref_ftx": sft_weight_rule,
    **dict.fromkeys(("truncation_strategy", "excess_length_strategy"), truncation),
    **dict.fromkeys(("val_size", "val_set_size", "split_dataset_ratio"), held_out_rule),
    **dict.fromkeys(("max_new_tokens", "generate_max_len"), completion_limit),
    **dict.fromkeys(("cutoff_len", "sequence_len", "max_len", "max_seq_length"), renamed("max_length")),
    **dict.fromkeys(("prompt_max_len", "max_prompt_len"), renamed("max_prompt_length")),
    "n_samples_per_prompt": renamed("num_generations"),
    **dict.fromkeys(("orpo_alpha", "orpo_lambda"), renamed("beta")),
}

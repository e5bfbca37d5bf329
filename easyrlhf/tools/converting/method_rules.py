"""Rules for settings of methods that several programs share: LoRA, losses, rewards, sampling, rows and lengths."""

from typing import Any

from easyrlhf.config.common_fields import wrong_reward_function
from easyrlhf.tools.converting.draft import Draft, Rule, finite_or_none, truth
from easyrlhf.tools.converting.lengths import ONLINE


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


def four_bit_rule(draft: Draft, key: str, value: Any) -> None:
    """A switch, or a number of bits; qlora may have said so before."""
    if truth(value) or finite_or_none(value) == 4:
        draft.set("load_in_4bit", True, "" if key == "load_in_4bit" else f"{key}: {value}")
    elif finite_or_none(value):
        draft.carry(key, value)

"""Keys by which other programs choose the method; here every method is a command."""

from typing import Any

from easyrlhf.stage_table import STAGES

KEYS = ("rl", "stage", "rlhf_type", "adv_estimator", "advantage_estimator", "algorithm.adv_estimator")
PPO, GRPO = "ppo_train", "grpo_train"
RLOO, REINFORCE = "grpo_train with advantage rloo", "grpo_train with advantage reinforce++"
COMMANDS = {name: stage.command for name, stage in STAGES.items()} | {
    "gae": PPO,
    "gdpo": "grpo_train with multi_objective_aggregation normalize_then_sum",
    "rloo": RLOO,
    "reinforce": REINFORCE,
    "reinforce++": REINFORCE,
    "reinforce_plus_plus": REINFORCE,
    "reinforce_plus_plus_baseline": REINFORCE,
    "reinforce_baseline": REINFORCE,
    "group_norm": GRPO,
    "dr_grpo": "grpo_train with loss_type dr_grpo",
}


def command_of(value: Any) -> str | None:
    """The command for what another program calls the method, perhaps with a setting: "dpo_train"; None for none."""
    return COMMANDS.get(str(value).lower())


def explain_method(key: str, value: Any, command: str) -> str:
    """What to do instead of `key: value` when `command` is being run."""
    ours = command_of(value)
    if ours is None:
        named = "" if value is None else f"; {value} is none of them"
        return f"each method is a command of its own, such as dpo_train{named}"
    if ours == command:
        return f"that is the command itself, {command}; leave the setting out"
    return f"{key} {value} is the command {ours}"

"""TRL's settings files, which do not name the method: it is the command's, and is guessed here from the keys."""

from typing import Any

from easyrlhf.tools.converting.axolotl import axolotl_data_sets
from easyrlhf.tools.converting.draft import Draft, Rule, truth
from easyrlhf.tools.converting.lengths import ONLINE
from easyrlhf.tools.converting.method_rules import loss_type, switched_lora

TITLE = "TRL"
SIGNS = """model_name_or_path dataset_name dataset_config dataset_train_split dataset_test_split use_peft
    attn_implementation
    assistant_only_loss completion_only_loss dataset_text_field max_completion_length log_completions
    sft_model_path reward_model_path lora_task_type lora_target_modules model_init_kwargs dtype eos_token"""
# keys that only the configuration of one trainer has
TRAINERS = (
    ("ppo", ("num_ppo_epochs", "sft_model_path", "response_length", "whiten_rewards", "total_episodes")),
    ("grpo", ("num_generations", "reward_funcs", "max_completion_length", "scale_rewards", "num_iterations")),
    ("kto", ("desirable_weight", "undesirable_weight")),
    ("cpo", ("cpo_alpha", "simpo_gamma")),
    ("rm", ("center_rewards_coefficient",)),
    ("dpo", ("beta", "precompute_ref_log_probs", "f_divergence_type", "ld_alpha", "discopop_tau", "loss_weights")),
)
RATES = {"sft": 2e-5, "rm": 1e-4, "ppo": 3e-6}


def stage_of(theirs: dict[str, Any]) -> str:
    """The trainer that the keys belong to; SFT when none of them says more. Losses that are commands here decide."""
    found = next((stage for stage, keys in TRAINERS if any(key in theirs for key in keys)), "sft")
    loss = theirs.get("loss_type")
    if (found, loss) == ("cpo", "simpo"):
        return "simpo"
    return "ipo" if found in ("dpo", "cpo") and loss == "ipo" else found


def trl_loss(draft: Draft, key: str, value: Any) -> None:
    """Losses that have chosen the command are said by it."""
    if draft.stage == "cpo" and value == "sigmoid":
        return
    if draft.stage not in ("simpo", "ipo"):
        loss_type(draft, key, value)


def trl_data(draft: Draft, key: str, value: Any) -> None:
    """A hub's data set as name:config@split; its other split is held out where evaluation is asked for."""
    name, config = draft.take("dataset_name"), draft.take("dataset_config")
    train, test = draft.take("dataset_train_split") or "train", draft.take("dataset_test_split")
    path = f"{name}:{config}" if config else str(name)
    draft.set("train_data", path + (f"@{train}" if train != "train" else ""))
    asked = draft.theirs.get("eval_strategy", draft.theirs.get("evaluation_strategy", "no"))
    if test and str(asked).lower() not in ("no", "false"):
        draft.set("valid_data", f"{path}@{test}")
    elif test:
        draft.leave("dataset_test_split", test, f"eval_strategy is no; else valid_data {path}@{test}")


def trl_lora(draft: Draft, *_: Any) -> None:
    """A switch; its rank is 16 by default."""
    on = truth(draft.take("use_peft"))
    switched_lora(draft, on, 16, 32, 0.05, "use_peft is off, so it has no effect there either")


def finish(draft: Draft) -> None:
    """TRL's defaults where they are not ours."""
    defaults = {"learning_rate": RATES.get(draft.stage, 1e-6), "epochs": 3, "warmup_ratio": 0.0}
    if draft.stage == "ppo":
        defaults |= {"response_length": 53, "temperature": 0.7, "missing_eos_penalty": 0.0}
    for name, value in defaults.items():
        draft.default(name, value, "TRL")
    if draft.stage not in ONLINE:
        draft.set("batch_size", 8 * draft.devices, "TRL's default: 8 on a device")


RULES: dict[str, Rule] = {
    **dict.fromkeys(("dataset_name", "dataset_config", "dataset_train_split", "dataset_test_split"), trl_data),
    "datasets": axolotl_data_sets("train_data"),
    **dict.fromkeys(("use_peft", "lora_r", "lora_alpha", "lora_dropout"), trl_lora),
    "loss_type": trl_loss,
}

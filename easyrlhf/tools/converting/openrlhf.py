"""OpenRLHF's flags as a settings file."""

from typing import Any

from easyrlhf.tools.converting.draft import Draft, Rule, finite_or_none, truth, whole_from_one
from easyrlhf.tools.converting.lengths import ONLINE, set_rollout
from easyrlhf.tools.converting.method_rules import switched_lora

TITLE = "OpenRLHF"
SIGNS = """pretrain reward_pretrain critic_pretrain prompt_data input_key output_key chosen_key rejected_key save_path
    micro_train_batch_size micro_rollout_batch_size rollout_batch_size train_batch_size n_samples_per_prompt
    actor_learning_rate critic_learning_rate init_kl_coef zero_stage prompt_max_len generate_max_len remote_rm_url
    advantage_estimator apply_chat_template packing_samples num_episodes ref_pretrain vllm_num_engines"""
PPO_DEFAULTS = {
    "learning_rate": 1e-6,
    "value_learning_rate": 9e-6,
    "kl_coef": 0.01,
    "num_ppo_epochs": 1,
    "cliprange_value": 0.5,
    "lam": 1.0,
    "reward_clip": 10.0,
}
ESTIMATORS = {"rloo": "rloo", "reinforce": "reinforce++", "reinforce_baseline": "reinforce++", "group_norm": "grpo"}
KEYS = {"input_key": "prompt", "output_key": "completion", "chosen_key": "chosen", "rejected_key": "rejected"}
KEYS |= {"prompt_key": "prompt", "label_key": "label"}


def stage_of(theirs: dict[str, Any]) -> str:
    """The program that has such flags: prompts are for PPO and its kin, a beta for DPO, pairs for a reward model."""
    if "prompt_data" in theirs or "rollout_batch_size" in theirs:
        return "ppo" if theirs.get("advantage_estimator", "gae") == "gae" else "grpo"
    if "beta" in theirs or "ref_pretrain" in theirs:
        return "ipo" if truth(theirs.get("ipo")) else "dpo"
    return "rm" if "chosen_key" in theirs or "rejected_key" in theirs else "sft"


def openrlhf_estimator(draft: Draft, key: str, value: Any) -> None:
    """GAE is PPO itself."""
    if value == "dr_grpo":
        draft.set("loss_type", "dr_grpo", f"{key}: {value}")
    elif draft.stage == "grpo":
        draft.keep(key, ESTIMATORS.get(str(value), value), "advantage", f"{key}: {value}")


def openrlhf_batch(draft: Draft, key: str, value: Any) -> None:
    """Counted over all devices already; a rollout is counted in prompts."""
    train = whole_from_one(draft.take("train_batch_size"), 128)
    if draft.stage not in ONLINE:
        return draft.set("batch_size", train, "train_batch_size counts all devices, as batch_size does")
    prompts = whole_from_one(draft.take("rollout_batch_size"), 1024)
    samples = whole_from_one(draft.take("n_samples_per_prompt"), 1)
    draft.set("num_generations", samples)
    parts = max(1, round(prompts * samples / train))
    return set_rollout(
        draft, prompts * samples, parts, f"{prompts} prompts x {samples} samples, {parts} steps of {train}"
    )


def openrlhf_data(draft: Draft, key: str, value: Any) -> None:
    """Files and hub ids; their weights are chances there and shares here."""
    draft.set("train_data", ",".join(map(str, value)) if isinstance(value, list) else str(value))


def openrlhf_row_keys(draft: Draft, key: str, value: Any) -> None:
    """All keys of a row at once."""
    named = {ours: draft.take(theirs) for theirs, ours in KEYS.items() if theirs in draft.theirs}
    moved = [f"{ours}={theirs}" for ours, theirs in named.items() if theirs not in (ours, None)]
    if moved:
        draft.set("field", ",".join(moved))


def zero_stage(draft: Draft, key: str, value: Any) -> None:
    """A number there; 0 and 1 are nearest to none and zero2."""
    offload = truth(draft.take("adam_offload"))
    name = (
        "none"
        if finite_or_none(value) == 0
        else ("zero3" if finite_or_none(value) == 3 else "zero2") + "_offload" * offload
    )
    draft.set("deepspeed", name, f"zero_stage: {value}" + ", adam_offload" * offload)


def openrlhf_passes(draft: Draft, key: str, value: Any) -> None:
    """Passes over a rollout in PPO, over the rows elsewhere."""
    names = {"ppo": "num_ppo_epochs", "grpo": "num_iterations"}
    draft.keep(key, value, names.get(draft.stage, "epochs"))


def vllm(draft: Draft, key: str, value: Any) -> None:
    """Engines of vLLM mean that it samples."""
    if finite_or_none(value) and draft.stage in ONLINE:
        draft.set("rollout", "vllm", f"{key}: {value}; vllm_mode colocate has one in every process")


def openrlhf_kl_weight(draft: Draft, key: str, value: Any) -> None:
    """In the reward for PPO."""
    draft.keep(key, value, "kl_coef" if draft.stage == "ppo" else "beta")


def openrlhf_lora(draft: Draft, *_: Any) -> None:
    """A rank above 0 switches it on."""
    on = bool(finite_or_none(draft.theirs.get("lora_rank")))
    switched_lora(draft, on, 8, 16, 0.0, "lora_rank is 0, so it has no effect there either")


def finish(draft: Draft) -> None:
    """OpenRLHF's defaults where they are not ours."""
    if draft.stage in ONLINE:
        openrlhf_batch(draft, "", None)
        draft.set("lr_scheduler", "cosine", "OpenRLHF's default, without its minimum")
        for name, value in PPO_DEFAULTS.items():
            draft.default(name, value, "OpenRLHF")
    elif "batch_size" not in draft.settings:
        openrlhf_batch(draft, "", None)


RULES: dict[str, Rule] = {
    "advantage_estimator": openrlhf_estimator,
    "ipo": lambda *_: None,
    **dict.fromkeys(("train_batch_size", "rollout_batch_size", "n_samples_per_prompt"), openrlhf_batch),
    **dict.fromkeys(("prompt_data", "dataset"), openrlhf_data),
    **dict.fromkeys(KEYS, openrlhf_row_keys),
    "zero_stage": zero_stage,
    "max_epochs": openrlhf_passes,
    "num_episodes": lambda draft, key, value: draft.keep(key, value, "epochs"),
    "vllm_num_engines": vllm,
    "init_kl_coef": openrlhf_kl_weight,
    **dict.fromkeys(("lora_rank", "lora_alpha", "lora_dropout"), openrlhf_lora),
}

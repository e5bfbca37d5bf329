"""LLaMA-Factory's settings files."""

from typing import Any

from easyrlhf.errors import InputError
from easyrlhf.tools.converting.draft import Draft, Rule
from easyrlhf.tools.converting.method_rules import switched_lora

TITLE = "LLaMA-Factory"
SIGNS = """stage finetuning_type template cutoff_len dataset_dir do_train preprocessing_num_workers overwrite_cache
    plot_loss max_samples pref_beta pref_loss pref_ftx lora_rank lora_target adapter_name_or_path val_size
    additional_target quantization_bit kto_chosen_weight ppo_score_norm mask_history"""
METHODS = ("sft", "rm", "ppo", "dpo", "kto")
LOSSES = {"orpo": "orpo", "simpo": "simpo", "ipo": "ipo"}


def stage_of(theirs: dict[str, Any]) -> str:
    """`stage`, and for its dpo the loss, which is a command here."""
    stage = theirs.get("stage", "sft")
    if stage not in METHODS:
        raise InputError(f"stage {stage}: there is no such method here; there are {', '.join(METHODS)}")
    return LOSSES.get(str(theirs.get("pref_loss")), "dpo") if stage == "dpo" else stage


def preference_loss(draft: Draft, key: str, value: Any) -> None:
    """Losses that are no command of their own."""
    if str(value) not in LOSSES and value != "sigmoid":
        draft.keep(key, value, "loss_type")


def llamafactory_data(name: str) -> Rule:
    """The rule for lists of data sets: names of dataset_info.json there."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        names = ",".join(map(str, value)) if isinstance(value, list) else str(value).replace(" ", "")
        draft.set(name, names, "names of dataset_info.json: write the paths or hub ids that stand there")

    return rule


def llamafactory_kind(draft: Draft, key: str, value: Any) -> None:
    """lora, full, or parts of the model, which has no counterpart."""
    if value not in ("lora", "full"):
        draft.leave(key, value, "here all weights, or adapters: lora_r")
    llamafactory_lora(draft, value == "lora")


def llamafactory_lora(draft: Draft, on: bool) -> None:
    """LoRA with its defaults: rank 8, alpha twice the rank."""
    rank = draft.theirs.get("lora_rank", 8)
    alpha = 2 * rank if isinstance(rank, int) else 16
    switched_lora(draft, on, 8, alpha, 0.0, "finetuning_type is not lora, so it has no effect there either")


def llamafactory_template(draft: Draft, key: str, value: Any) -> None:
    """One's own templates there, the model's here."""
    draft.leave(key, value, "the model's own template; for a base model chat_template chatml, llama3 or a file")


def finish(draft: Draft) -> None:
    """LLaMA-Factory's defaults where they are not ours."""
    if "finetuning_type" not in draft.theirs:
        llamafactory_lora(draft, True)
    for name, value in {"learning_rate": 5e-5, "epochs": 3, "warmup_ratio": 0.0, "max_length": 2048}.items():
        draft.default(name, value, "LLaMA-Factory")
    if draft.stage == "ppo":
        draft.default("kl_coef", 0.2, "LLaMA-Factory")
        draft.default("kl_target", 6.0, "LLaMA-Factory")
    draft.set("batch_size", 8 * draft.devices, "LLaMA-Factory's default: 8 on a device")


RULES: dict[str, Rule] = {
    "stage": lambda *_: None,
    "pref_loss": preference_loss,
    "dataset": llamafactory_data("train_data"),
    "eval_dataset": llamafactory_data("valid_data"),
    "finetuning_type": llamafactory_kind,
    **dict.fromkeys(
        ("lora_rank", "lora_alpha", "lora_dropout"),
        lambda draft, *_: llamafactory_lora(draft, draft.theirs.get("finetuning_type", "lora") == "lora"),
    ),
    "template": llamafactory_template,
}

"""ms-swift's settings files."""

from typing import Any

from easyrlhf.errors import InputError
from easyrlhf.tools.converting.draft import Draft, Rule, truth, whole_from_one
from easyrlhf.tools.converting.lengths import ONLINE
from easyrlhf.tools.converting.method_rules import loss_type, switched_lora

TITLE = "ms-swift"
SIGNS = """rlhf_type train_type tuner_type torch_dtype split_dataset_ratio dataset_num_proc load_from_cache_file
    external_plugins log_completions vllm_max_model_len sleep_level multi_turn_scheduler overlong_filter system adapters
    val_dataset loss_scale attn_impl model_author custom_register_path offload_optimizer vllm_mode target_modules"""
METHODS = ("dpo", "orpo", "simpo", "kto", "cpo", "rm", "ppo", "grpo")
NAMES_IN_ROWS = "what a row says is in the row: fill names in with transform"
ESTIMATORS = {"grpo": "grpo", "rloo": "rloo", "reinforce_plus_plus": "reinforce++"}


def stage_of(theirs: dict[str, Any]) -> str:
    """`rlhf_type` names the method; without it, SFT. DPO with loss ipo is a command of its own."""
    method = theirs.get("rlhf_type", "sft")
    if method not in (*METHODS, "sft"):
        raise InputError(f"rlhf_type {method}: there is no such method here; there are {', '.join(METHODS)}")
    return "ipo" if method == "dpo" and theirs.get("loss_type") == "ipo" else method


def swift_data(name: str) -> Rule:
    """The rule for lists of data sets, which may end in #500 and begin with the hub's name."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        items = [str(item) for item in (value if isinstance(value, list) else str(value).split())]
        plain = [item.removeprefix("hf::").removeprefix("HF::").partition("#")[0] for item in items]
        counted = [item for item in items if "#" in item]
        said = f"{', '.join(counted)}: rows are taken by a share, as in rows.jsonl=0.1" if counted else ""
        draft.set(name, ",".join(plain), said)

    return rule


def swift_columns(draft: Draft, key: str, value: Any) -> None:
    """Theirs to ours: {"question": "query"} is field query=question."""
    if isinstance(value, dict):
        draft.set("field", ",".join(f"{to}={name}" for name, to in value.items()))
    else:
        draft.carry(key, value)


def swift_kind(draft: Draft, key: str, value: Any) -> None:
    """lora, full, or one of many other ways."""
    if value not in ("lora", "full"):
        draft.leave(key, value, "here all weights, or adapters: lora_r")
    swift_lora(draft)


def swift_lora(draft: Draft, *_: Any) -> None:
    """LoRA with its defaults, and it is the default itself."""
    on = draft.theirs.get("train_type", draft.theirs.get("tuner_type", "lora")) == "lora"
    switched_lora(draft, on, 8, 32, 0.05, "the tuner is not lora, so it has no effect there either")


def swift_estimator(draft: Draft, key: str, value: Any) -> None:
    """What a completion is compared with."""
    draft.keep(key, ESTIMATORS.get(str(value), value), "advantage")


def resampling(draft: Draft, key: str, value: Any) -> None:
    """A switch and a number there."""
    times = draft.take("max_resample_times")
    draft.done.add("dynamic_sample")
    if truth(draft.theirs.get("dynamic_sample")):
        draft.keep(key, whole_from_one(times, 3), "dynamic_sampling")


def swift_loss(draft: Draft, key: str, value: Any) -> None:
    """ipo has chosen the command."""
    if draft.stage != "ipo":
        loss_type(draft, key, value)


def length(draft: Draft, key: str, value: Any) -> None:
    """In PPO and GRPO it bounds the prompt alone."""
    draft.keep(key, value, "max_prompt_length" if draft.stage in ONLINE else "max_length")


def finish(draft: Draft) -> None:
    """ms-swift's defaults where they are not ours."""
    if not {"train_type", "tuner_type"} & draft.theirs.keys():
        swift_lora(draft)
    adapted = draft.settings.get("lora_r")
    for name, value in {"lr_scheduler": "cosine", "epochs": 3, "weight_decay": 0.1, "warmup_ratio": 0.0}.items():
        draft.default(name, value, "ms-swift")
    if draft.stage not in ONLINE:
        draft.default("learning_rate", 1e-4 if adapted else 1e-5, "ms-swift")
        draft.default("batch_size", 16, "ms-swift")


RULES: dict[str, Rule] = {
    "rlhf_type": lambda *_: None,
    "model_name": lambda draft, key, value: draft.leave(key, value, NAMES_IN_ROWS),
    "model_author": lambda draft, key, value: draft.leave(key, value, NAMES_IN_ROWS),
    "dataset": swift_data("train_data"),
    "val_dataset": swift_data("valid_data"),
    "columns": swift_columns,
    "max_length": length,
    **dict.fromkeys(("train_type", "tuner_type"), swift_kind),
    **dict.fromkeys(("lora_rank", "lora_alpha", "lora_dropout"), swift_lora),
    "advantage_estimator": swift_estimator,
    **dict.fromkeys(("dynamic_sample", "max_resample_times"), resampling),
    "loss_type": swift_loss,
}

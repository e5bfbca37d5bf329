"""axolotl's settings files."""

from typing import Any

from easyrlhf.config.peers.datasets import DataSet, read_data_set
from easyrlhf.errors import InputError
from easyrlhf.tools.converting.draft import Draft, Rule, truth, whole_from_one
from easyrlhf.tools.converting.method_rules import switched_lora

TITLE = "axolotl"
SIGNS = """base_model datasets test_datasets micro_batch_size sequence_len sample_packing rl adapter val_set_size
    lora_target_linear lora_model_dir dataset_prepared_path num_epochs evals_per_epoch saves_per_epoch special_tokens
    train_on_inputs pad_to_sequence_len flash_attention model_type tokenizer_type eval_sample_packing"""
METHODS = ("dpo", "ipo", "kto", "orpo", "simpo", "grpo", "ebft")
STRIDES = ("strided", "stride")
POOLINGS = {"last_token": "last", "completion_mean": "mean"}
OURS_BY_NAME = ("chatml", "llama3")


def stage_of(theirs: dict[str, Any]) -> str:
    """`rl` names the method; without it, SFT or a reward model."""
    method = theirs.get("rl")
    if method is None:
        return "rm" if truth(theirs.get("reward_model")) else "sft"
    if method == "gdpo":
        return "grpo"
    if method not in METHODS:
        raise InputError(f"rl {method}: there is no such method here; there are {', '.join(METHODS)}")
    return method


def method(draft: Draft, key: str, value: Any) -> None:
    """The command itself; GDPO is a setting of grpo_train."""
    if value == "gdpo":
        draft.set("multi_objective_aggregation", "normalize_then_sum", "rl: gdpo")


def axolotl_reward_model(draft: Draft, key: str, value: Any) -> None:
    """A switch there, which has chosen the command."""
    if not isinstance(value, bool):
        draft.keep(key, value, "reward_model")


def axolotl_data_sets(name: str) -> Rule:
    """The rule for a list of data sets; the first entry of it is met first, and answers for all."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        keys = [one for one in draft.theirs if one.partition("[")[0] == key.partition("[")[0]]
        entries = [draft.take(one) for one in keys]
        if not all(isinstance(entry, dict) for entry in entries):
            draft.keep(key, entries[0], name)
            return
        sets = [read_data_set(entry) for entry in entries]
        draft.set(name, ",".join(one.train_data for one in sets))
        for one, at in zip(sets, keys, strict=True):
            for inner, why in one.left.items():
                draft.leave(f"{at}.{inner}", draft.theirs[at].get(inner, "of type"), why)
        if name == "train_data":
            for setting in ("format", "field"):
                shared(draft, setting, sets)

    return rule


def shared(draft: Draft, setting: str, sets: list[DataSet]) -> None:
    """One format and one field for all files; where they differ, that is said."""
    values = [getattr(one, setting) for one in sets]
    if len(set(values)) > 1:
        told = "; ".join(f"{one.train_data}: {getattr(one, setting) or 'none'}" for one in sets)
        draft.leave(setting, told, "one for all files: bring them into one form with easyrlhf data convert")
    elif values[0]:
        draft.set(setting, values[0])


def adapter(draft: Draft, key: str, value: Any) -> None:
    """lora, or qlora, whose base is in 4 bits."""
    if value == "qlora":
        draft.set("load_in_4bit", True, f"{key}: {value}")
    elif value != "lora":
        draft.leave(key, value, "here lora_r: a rank switches LoRA on")
    switched_lora(draft, value in ("lora", "qlora"), 16, 32, 0.0, "there is no LoRA adapter")


def no_adapter(draft: Draft, key: str, value: Any) -> None:
    """Settings of LoRA in a file without `adapter`; before it, they wait for it."""
    on = draft.theirs.get("adapter") in ("lora", "qlora")
    switched_lora(draft, on, 16, 32, 0.0, "without adapter all weights are trained, there as here")


def axolotl_template(draft: Draft, key: str, value: Any) -> None:
    """A name that both know, a file, or the model's own."""
    if value in OURS_BY_NAME:
        draft.set("chat_template", value)
    elif value != "jinja" and not str(value).startswith("tokenizer_default"):
        draft.leave(key, value, "the model's own template, or chat_template with chatml, llama3 or a Jinja file")


def feature_layers(draft: Draft, key: str, value: Any) -> None:
    """Depths as a list."""
    draft.set("feature_depths", ",".join(map(str, value if isinstance(value, list) else [value])), key)


def embed_method(draft: Draft, key: str, value: Any) -> None:
    """What the states of a layer become."""
    if value in POOLINGS:
        draft.set("feature_pooling", POOLINGS[value], f"{key}: {value}")
    else:
        draft.carry(key, value)


def use_whitening(draft: Draft, key: str, value: Any) -> None:
    """Off there is off here; on is ours, whose statistics are those of the whole start."""
    if not truth(value):
        draft.set("whiten_samples", 0, f"{key}: {value}; the default whitens, and without it little is learned")


def ebft_mode(draft: Draft, key: str, value: Any) -> None:
    """Structured is the default of both."""
    if value in STRIDES:
        draft.set("ebft_mode", "stride", f"{key}: {value}")
    elif value != "structured":
        draft.carry(key, value)


def of_stride(name: str) -> Rule:
    """The rule for a setting of stride mode, which says nothing in the other."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        if draft.theirs.get("ebft.mode") in STRIDES:
            draft.keep(key, value, name)
        else:
            draft.leave(key, value, f"{name} counts in ebft_mode stride alone")

    return rule


def finish(draft: Draft) -> None:
    """axolotl's defaults where they are not ours."""
    draft.default("lr_scheduler", "cosine", "axolotl")
    draft.set("max_length", 512, "axolotl's default sequence_len")
    if draft.settings.get("ebft_mode") == "stride":
        count_completions(draft)
    draft.set("batch_size", draft.devices, "axolotl's default micro_batch_size is 1")


def count_completions(draft: Draft) -> None:
    """A step counts texts there, completions here: those of all blocks of texts as long as they may be."""
    texts = draft.devices
    for name in ("micro_batch_size", "gradient_accumulation_steps"):
        texts *= whole_from_one(draft.theirs.get(name), 1)
    names = ("max_length", "generate_length", "context_length", "stride", "num_generations")
    longest, tokens, context, stride, drawn = (
        whole_from_one(draft.settings.get(name), draft.own[name].default) for name in names
    )
    blocks = max(1, (longest - tokens - context) // stride + 1)
    draft.drop("batch_size")
    said = f"{texts} of their texts, each of {blocks} blocks at {longest} tokens, {drawn} completions a block"
    draft.set("batch_size", texts * blocks * drawn, said)


RULES: dict[str, Rule] = {
    "rl": method,
    "reward_model": axolotl_reward_model,
    "datasets": axolotl_data_sets("train_data"),
    "test_datasets": axolotl_data_sets("valid_data"),
    "adapter": adapter,
    **dict.fromkeys(("lora_r", "lora_alpha", "lora_dropout"), no_adapter),
    "chat_template": axolotl_template,
    "ebft.feature_layers": feature_layers,
    "ebft.embed_method": embed_method,
    "ebft.use_whitening": use_whitening,
    "ebft.mode": ebft_mode,
    "ebft.stride": of_stride("stride"),
    "ebft.context_length": of_stride("context_length"),
    "ebft.generate_max_len": of_stride("generate_length"),
}

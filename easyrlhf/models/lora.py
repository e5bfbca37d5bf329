"""LoRA: which layers get an adapter, which are trained whole, and which rows of the embeddings are trained beside."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from easyrlhf.config.lists import split_list
from easyrlhf.errors import InputError
from easyrlhf.models.adapters import quietly

ALL = "all-linear"


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """What an adapter is.

    target           "all-linear", or module names separated by commas
    modules_to_save  names of modules that are trained whole and belong to the adapter, separated by commas
    """

    r: int
    alpha: float
    dropout: float
    target: str
    modules_to_save: str | None = None


def add_lora(lm: PreTrainedModel, settings: LoraSettings, new_tokens: Sequence[int] = ()):
    """Wrap the model with a fresh LoRA adapter; only what belongs to the adapter stays trainable.

    new_tokens  ids whose rows of the embeddings, and of the output layer, are trained as well: the model has never seen
                them, and no adapter of other layers can tell one from another

    Raises InputError when no module has such a name, or when the rows cannot be trained.
    """
    from peft import LoraConfig, get_peft_model

    whole = modules_trained_whole(lm, split_list(settings.modules_to_save))
    target = split_list(settings.target)
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=ALL if settings.target == ALL else list(target),
        modules_to_save=whole or None,
        trainable_token_indices=trained_rows(lm, target, whole, new_tokens) or None,
        ensure_weight_tying=tied(lm) and any(layer in whole for layer in embedding_names(lm)),
        task_type="CAUSAL_LM",
    )
    try:
        with quietly():
            return get_peft_model(lm, config)
    except ValueError as error:
        raise InputError(f"--lora_target {settings.target}: {error}") from error


@torch.no_grad()
def with_adapter(lora: nn.Module, adapter: str, lm: PreTrainedModel) -> nn.Module:
    """An adapter of a LoRA model on another language model, as that one's only adapter.

    lm  of the same shape as the one below the adapter, without an adapter of its own
    """
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    with quietly():
        alone = get_peft_model(lm, copy(lora.peft_config[adapter]))
        set_peft_model_state_dict(alone, get_peft_model_state_dict(lora, adapter_name=adapter))
    return alone


def modules_trained_whole(lm: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """What peft is told of --modules_to_save: embeddings that are also the output layer are trained as both.

    Raises InputError when the model has no module of a name; peft would pass over it.
    """
    known = [module for module, _ in lm.named_modules()]
    for name in names:
        if not any(module.endswith(name) for module in known):
            last = {module.rpartition(".")[2] for module in known}
            there = ", ".join(sorted(module for module in last if module and not module.isdigit()))
            raise InputError(f"--modules_to_save {name}: the model has no module of that name; it has {there}")
    layers = [layer for layer in embedding_names(lm) if names and layer.endswith(tuple(names))]
    if layers and tied(lm):
        layers = embedding_names(lm)
    return [*layers, *(name for name in names if not any(layer.endswith(name) for layer in layers))]


def trained_rows(
    lm: PreTrainedModel, target: Sequence[str], whole: Sequence[str], new_tokens: Sequence[int]
) -> dict[str, list[int]]:
    """Layer → ids of the tokens whose rows of it are trained. Raises InputError where peft cannot train them."""
    if not new_tokens:
        return {}
    layers = embedding_names(lm)
    adapted = [layer for layer in layers if any(f".{layer}".endswith(f".{name}") for name in target)]
    wanted = [layer for layer in layers if layer not in [*adapted, *whole]]
    if tied(lm):
        wanted = [] if layers[0] in whole else layers[:1]
    for layer in wanted:
        module = lm.get_submodule(layer)
        single = isinstance(module, nn.Linear | nn.Embedding) and getattr(module, "bias", None) is None
        if not single or (tied(lm) and adapted):
            raise InputError(
                f"--lora_r: the chat template brings {len(new_tokens)} tokens that the model has never seen, and rows "
                f"of its layer {layer} ({type(module).__name__}) cannot be trained alone beside --lora_target "
                f"{','.join(target)}; add --modules_to_save {layer.rpartition('.')[2]} and leave the layer out of "
                "--lora_target, or train all weights (--lora_r 0)"
            )
    return {layer: list(new_tokens) for layer in wanted}


def embedding_names(lm: PreTrainedModel) -> list[str]:
    """Names of the embeddings and of the output layer."""
    layers = [layer for layer in (lm.get_input_embeddings(), lm.get_output_embeddings()) if layer is not None]
    return [name for layer in layers for name, module in lm.named_modules() if module is layer]


def tied(lm: PreTrainedModel) -> bool:
    """Whether the output layer has the weight of the embeddings."""
    head = lm.get_output_embeddings()
    return head is not None and head.weight is lm.get_input_embeddings().weight

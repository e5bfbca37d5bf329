"""A model by its shape alone: made without numbers, in any depth, and counted."""

import warnings
from dataclasses import dataclass
from functools import lru_cache

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedConfig

from easyrlhf.config.lists import split_list
from easyrlhf.models.adapters import quietly
from easyrlhf.models.load import disable_dropout, load_config
from easyrlhf.models.lora import LoraSettings, add_lora
from easyrlhf.models.parts import backbone, plain_lm
from easyrlhf.models.value_head import ScalarModel, new_head
from easyrlhf.rollout.onednn_linear import blockable
from easyrlhf.tools.fitting.memory import Held
from easyrlhf.tools.fitting.packed import pack

TRAINED, TRAINED_SCORER, FROZEN, SCORER = "trained", "trained scorer", "frozen", "scorer"  # what count_held is asked of


@dataclass(frozen=True)
class ModelShape:
    """What decides the memory that a model and its passes take.

    path        folder or hub id that has a config.json
    dtype       of its weights; adapters are float32
    classifier  a sequence classifier, which has no language-model head
    lora_r      rank of its adapter; 0 for none
    four_bit    whether its linear layers are in 4 bits, but for modules_to_save
    """

    path: str
    dtype: torch.dtype
    classifier: bool = False
    lora_r: int = 0
    lora_target: str = "all-linear"
    lora_dropout: float = 0.0
    modules_to_save: str | None = None
    four_bit: bool = False
    dropout: bool = False
    gradient_checkpointing: bool = False
    attn_implementation: str | None = None
    trust_remote_code: bool = False


def make_model(shape: ModelShape, depth: int = 0) -> nn.Module:
    """The model on the meta device, with its first `depth` layers (0: all)."""
    config = load_config(shape.path, trust_remote_code=shape.trust_remote_code)
    if depth:
        cut_config(config.get_text_config(), depth)
    maker = AutoModelForSequenceClassification if shape.classifier else AutoModelForCausalLM
    attention = shape.attn_implementation
    if attention and attention not in ("eager", "sdpa"):
        attention = "sdpa"  # other kernels keep as much as sdpa does, and need not be installed here
    with init_empty_weights(include_buffers=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the stage gives them
        lm = maker.from_config(
            config, dtype=shape.dtype, attn_implementation=attention, trust_remote_code=shape.trust_remote_code
        )
        if not shape.dropout:
            disable_dropout(lm)
        if shape.gradient_checkpointing:
            with quietly():  # newer transformers call it activation_checkpointing_enable
                lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if shape.four_bit:
            pack(lm, split_list(shape.modules_to_save))
        if shape.lora_r:
            settings = LoraSettings(
                r=shape.lora_r,
                alpha=32,
                dropout=shape.lora_dropout,
                target=shape.lora_target,
                modules_to_save=shape.modules_to_save,
            )
            lm = add_lora(lm, settings)
    return lm


def cut_config(config: PreTrainedConfig, depth: int) -> None:
    """Leave a configuration its first layers, and of its lists with an entry per layer the first entries."""
    layers = config.num_hidden_layers
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == layers:
            setattr(config, name, value[:depth])
    config.num_hidden_layers = depth


def as_on_cpu(model: nn.Module) -> nn.Module:
    """The model with tensors that pass for the CPU's in place of those of the meta device; tied ones stay tied."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None and id(tensor) not in made:
                    made[id(tensor)] = torch.empty(tensor.shape, dtype=tensor.dtype)
                    if isinstance(tensor, nn.Parameter):
                        made[id(tensor)] = nn.Parameter(made[id(tensor)], requires_grad=tensor.requires_grad)
                table[name] = None if tensor is None else made[id(tensor)]
    return model


def layers_of(lm: nn.Module) -> nn.ModuleList:
    """The layers of a language model, one after another; none where they are kept in another way."""
    count = plain_lm(lm).config.get_text_config().num_hidden_layers
    lists = (part for part in backbone(lm).modules() if isinstance(part, nn.ModuleList))
    return next((part for part in lists if len(part) == count), nn.ModuleList())


def tensors_of(*models: nn.Module) -> list[Tensor]:
    """Weights and buffers."""
    return [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]


@lru_cache(maxsize=64)
def count_held(shape: ModelShape, role: str) -> Held:
    """What the model takes however it is used. Raises InputError when it cannot be read.

    role  one of the four above
    """
    lm = make_model(shape)
    model = ScalarModel(lm, new_head(lm)) if role in (SCORER, TRAINED_SCORER) else lm
    trained = [p for p in model.parameters() if p.requires_grad and role in (TRAINED, TRAINED_SCORER)]
    parts = [*layers_of(lm), plain_lm(lm).get_input_embeddings()]
    return Held(
        weights=sum(tensor.nbytes for tensor in tensors_of(model)),
        trained=sum(p.numel() for p in trained),
        mastered=sum(p.numel() for p in trained if p.dtype != torch.float32),
        largest_part=max(sum(tensor.nbytes for tensor in tensors_of(part)) for part in parts),
        largest_trained=max((p.numel() for p in trained), default=0),
    )


@lru_cache(maxsize=64)
def copied_weights(shape: ModelShape) -> float:
    """Bytes of the copies of its weights that a model on a CPU samples with."""
    return sum(layer.weight.nbytes for layer in blockable(make_model(shape)))

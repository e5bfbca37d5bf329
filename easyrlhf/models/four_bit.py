"""`--load_in_4bit`: the frozen linear layers below LoRA adapters in 4 bits (QLoRA, Dettmers et al. 2023), and back.

A weight is one of the 16 numbers of NF4 times the scale of its block of 64; the scales are kept in 8 bits, in blocks
of 256. Adapters, embeddings, norms and the output layer keep their own precision, and so do layers whose rows are no
whole number of blocks: bitsandbytes reads those wrongly on a CPU. What is saved is the base as the
adapter has seen it, the numbers that the 4 bits stand for: the file it came from would be another model.
"""

import copy
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import nn
from transformers import PreTrainedModel

from easyrlhf.errors import InputError
from easyrlhf.models.adapters import quietly
from easyrlhf.models.lora import with_adapter

BLOCK, SCALES = 64, 256  # weights that have one scale; scales that have one of their own


def check_four_bit(lm: PreTrainedModel, whole: Sequence[str], device: torch.device, zero_stage: int) -> None:
    """Raise InputError where the linear layers of a model cannot be kept in 4 bits; its weights need not be there."""
    if find_spec("bitsandbytes") is None:
        raise InputError("--load_in_4bit: bitsandbytes is not installed here; pip install 'easyrlhf[quantization]'")
    if device.type not in ("cuda", "cpu"):
        raise InputError(f"--load_in_4bit: needs a GPU of CUDA or a CPU, and this is {device.type}; leave it out")
    if zero_stage == 3:
        raise InputError(
            "--load_in_4bit: ZeRO stage 3 cuts weights into parts and loses the scales of 4-bit ones; use --deepspeed "
            "zero2, or leave it out"
        )
    if not layers_to_quantise(lm, whole):
        raise InputError(
            f"--load_in_4bit: {type(lm).__name__} has no linear layers of torch with a multiple of {BLOCK} inputs "
            "beside its output layer, so nothing of it can be kept in 4 bits; leave it out"
        )


def layers_to_quantise(lm: PreTrainedModel, whole: Sequence[str]) -> list[str]:
    """Names of the linear layers whose rows are whole blocks.

    But for the output layer, and for what lies in modules whose names end like this.
    """
    head = lm.get_output_embeddings()
    linear = {name: module for name, module in lm.named_modules() if type(module) is nn.Linear and module is not head}
    fitting = [name for name, module in linear.items() if module.in_features % BLOCK == 0]
    return [name for name in fitting if not any(above.endswith(tuple(whole)) for above in paths_to(name))]


def paths_to(name: str) -> list[str]:
    """`a.b.c` as a, a.b and a.b.c."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]


def quantise(lm: PreTrainedModel, device: torch.device, whole: Sequence[str] = ()) -> None:
    """Put the linear layers in 4 bits on the device, one after another; arguments as layers_to_quantise."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    for name in layers_to_quantise(lm, whole):
        layer = lm.get_submodule(name)
        size = layer.in_features, layer.out_features
        found = Linear4bit(*size, bias=False, compute_dtype=layer.weight.dtype, quant_type="nf4", device="meta")
        found.weight = Params4bit(layer.weight.detach(), requires_grad=False, quant_type="nf4", module=found)
        found.bias = layer.bias
        found.support_avx512bf16_for_cpu = False  # a layout for inference alone, through which no gradient passes
        lm.set_submodule(name, found.to(device))
    lm.is_loaded_in_4bit = True  # by which peft knows it


def dequantise(lm: PreTrainedModel) -> None:
    """Put the layers back, on the CPU: plain ones, of the numbers that the 4 bits stand for."""
    from bitsandbytes.functional import dequantize_4bit

    for name, layer in [(name, module) for name, module in lm.named_modules() if is_quantised(module)]:
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(dequantize_4bit(layer.weight.data, layer.weight.quant_state).cpu())
        plain.bias = layer.bias
        lm.set_submodule(name, plain)
    lm.is_loaded_in_4bit = False


def is_quantised(module: nn.Module) -> bool:
    """Whether this is a layer in 4 bits."""
    return hasattr(getattr(module, "weight", None), "quant_state") and isinstance(module, nn.Linear)


def holds_four_bit(lm: nn.Module) -> bool:
    """Whether a model has layers in 4 bits."""
    return any(is_quantised(module) for module in lm.modules())


@torch.no_grad()
def in_full(lora: nn.Module) -> nn.Module:
    """A LoRA model as one that has no 4-bit layers, on the CPU; nothing of it is shared with the one given."""

    def apart(parameter: nn.Parameter) -> nn.Parameter:
        there = parameter.detach().to("cpu", copy=True)
        return nn.Parameter(there, requires_grad=False)

    packed = {id(module.weight) for module in lora.modules() if is_quantised(module)}
    memo = {id(p): p if id(p) in packed else apart(p) for p in lora.parameters()}  # 4-bit weights are only read
    with quietly():
        base = copy.deepcopy(lora, memo).unload()
    dequantise(base)
    return with_adapter(lora, "default", base.to("cpu"))


# --- bytes


def packed_tensors(weights: int) -> dict[str, tuple[int, torch.dtype]]:
    """What a layer of so many weights keeps: name → (entries, type)."""
    blocks = -(-weights // BLOCK)
    return {
        "weight": (-(-weights // 2), torch.uint8),
        "absmax": (blocks, torch.uint8),
        "scale_of_absmax": (-(-blocks // SCALES), torch.float32),
        "offset_of_absmax": (1, torch.float32),
    }


def packed_bytes(weights: int) -> int:
    """Bytes of what a layer of so many weights keeps."""
    return sum(count * dtype.itemsize for count, dtype in packed_tensors(weights).values())


def bytes_of(lm: PreTrainedModel, width: int, whole: Sequence[str] = ()) -> int:
    """Bytes of a model's parameters with its linear layers in 4 bits and the rest of this width; reads no weights."""
    linear = [lm.get_submodule(name).weight.numel() for name in layers_to_quantise(lm, whole)]
    rest = sum(parameter.numel() for parameter in lm.parameters()) - sum(linear)
    return rest * width + sum(map(packed_bytes, linear))

"""How every training stage learns: settings of the optimiser and of LoRA."""

from dataclasses import dataclass
from typing import ClassVar

from easyrlhf.config.base import FREE, LORA, OPTIMISATION, Settings, opt


@dataclass(kw_only=True, frozen=True)
class Optimisation(Settings):
    """How weights are learned."""

    group: ClassVar[str] = OPTIMISATION

    epochs: int = opt(
        1,
        "Passes over train_data. More than 3 usually over-fits.",
        low=1,
        otherwise="for a part of a pass give max_steps, the number of optimiser steps: rows of that part / batch_size",
    )
    max_steps: int | None = opt(
        None,
        "Stop after this many optimiser steps even when the epochs are not over; for short trials.",
        low=1,
        shown="all epochs",
    )
    batch_size: int = opt(
        64,
        "Examples per optimiser step, over all devices. It shapes learning, not memory: "
        "accumulation follows from micro_batch_tokens.",
        low=1,
    )
    micro_batch_tokens: int | None = opt(
        None,
        "Tokens per device in one forward pass. Lower it when memory runs out: the result stays the same.",
        low=1,
        shown="8192 on a GPU, 2048 on CPU",
        on_resume=FREE,
    )
    learning_rate: float | None = opt(
        None,
        "Peak learning rate of AdamW. The default suits pretrained models; tiny ones trained "
        "from scratch need 1e-4 to 2e-3.",
        above=0,
        shown="{cls.learning_rate_full:g}, with LoRA {cls.learning_rate_lora:g}",
    )
    lr_scheduler: str = opt(
        "linear",
        "Learning rate after warm-up: linear or cosine decay to 0, or constant.",
        choices=("linear", "cosine", "constant"),
    )
    warmup_ratio: float = opt(
        0.03,
        "Share of all steps over which the learning rate rises from 0.",
        low=0,
        below=1,
    )
    weight_decay: float = opt(0.0, "AdamW's decoupled weight decay; 0 to 0.1.", low=0)
    adam_eps: float = opt(1e-8, "Epsilon in AdamW's denominator.", above=0)
    max_grad_norm: float = opt(
        1.0,
        "Gradients are scaled down when their joint norm is above this.",
        above=0,
    )
    precision: str = opt(
        "auto",
        "Number format of the forward pass: auto is bf16 on a GPU and float32 on CPU. float32 "
        "repeats bit for bit on CPU.",
        choices=("auto", "float32", "bf16"),
    )
    attn_implementation: str | None = opt(
        None,
        "Attention kernel as transformers names it: eager, sdpa, flash_attention_2…",
        metavar="NAME",
        shown="transformers' choice",
        on_resume=FREE,
    )
    gradient_checkpointing: bool = opt(
        False,
        "Recompute activations in the backward pass: about a third slower, far less memory on long sequences.",
        on_resume=FREE,
    )
    offload_activations: bool = opt(
        False,
        "With gradient_checkpointing, keep what it does not recompute, the states between layers, in the host's memory "
        "until the backward pass needs them: for rows whose states alone fill a GPU. Slower; the numbers are the same.",
        on_resume=FREE,
    )


@dataclass(kw_only=True, frozen=True)
class LoRA(Settings):
    """Adapters in place of all weights."""

    group: ClassVar[str] = LORA

    lora_r: int = opt(
        0,
        "Rank of LoRA adapters; 0 trains all weights, 8 to 64 is usual. The result holds merged "
        "weights and the adapter.",
        low=0,
    )
    lora_alpha: float = opt(32.0, "Adapter updates are scaled by lora_alpha / lora_r.", above=0)
    lora_dropout: float = opt(0.0, "Dropout on the adapters' input; 0 to 0.1.", low=0, below=1)
    lora_target: str = opt(
        "all-linear",
        "Layers that get an adapter: all-linear, or names such as q_proj,v_proj.",
        metavar="NAME[,…]",
        many=True,
    )
    modules_to_save: str | None = opt(
        None,
        "Modules that LoRA trains whole beside its adapters, by the end of their names, such as embed_tokens,lm_head. "
        "Tokens that chat_template brings are trained without it.",
        metavar="NAME[,…]",
        many=True,
    )

    load_in_4bit: bool = opt(
        False,
        "Keep the base below the adapters in 4 bits (QLoRA: NF4, scales in 8 bits): a third of the memory of bf16, "
        "and somewhat slower. The result is in full precision. Needs bitsandbytes (pip install "
        "'easyrlhf[quantization]').",
    )

"""How many completions are decoded together: on a GPU as many as a share of its memory holds keys and values of."""

import torch
from transformers import PreTrainedConfig

TOGETHER = 64  # on a CPU, where more make it no faster
CACHE_SHARE = 1 / 8  # of a GPU's memory
LOGITS_BYTES = 4 * 4  # of a token of the vocabulary while one is drawn: the logits in float32, and what is made of them


def decoded_together(setting: int | None, kind: str, memory: float, bytes_each: float) -> int:
    """Completions that are decoded together: the setting, or what a device of this kind and memory has room for."""
    if setting is not None:
        return setting
    return max(1, int(CACHE_SHARE * memory / bytes_each)) if kind == "cuda" else TOGETHER


def bytes_of_completion(config: PreTrainedConfig, dtype: torch.dtype, tokens: int) -> int:
    """Bytes that a completion takes with its prompt, so many tokens together, while it is decoded.

    config  of the text model
    """
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return tokens * config.num_hidden_layers * 2 * heads * size * dtype.itemsize + LOGITS_BYTES * config.vocab_size

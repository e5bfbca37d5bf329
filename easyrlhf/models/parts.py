"""The parts of a language model: its backbone, its hidden states, its logits, and which ids it may say."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.graph import save_on_cpu
from transformers import PreTrainedModel

from easyrlhf.models.vocabulary import spare_ids

NO_CHANCE = -1e9  # a logit, finite, so that entropies of what it stands in are numbers


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Dropout off in these models for a while, whatever mode they are in."""
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)


def plain_lm(lm: nn.Module) -> PreTrainedModel:
    """The causal language model itself, out of its LoRA wrapper if it has one."""
    return lm.get_base_model() if hasattr(lm, "get_base_model") else lm


def backbone(lm: nn.Module) -> nn.Module:
    """The part of a causal language model that turns tokens into hidden states."""
    return plain_lm(lm).base_model


def last_states(lm: nn.Module, **inputs: Any) -> torch.Tensor:
    """Last hidden states of a backbone's inputs.  [B, S, H]

    What the backward pass needs of it lies in the host's memory until then where the model has `offloads`.
    """
    offloads = getattr(plain_lm(lm), "offloads", False) and torch.is_grad_enabled()
    with save_on_cpu(pin_memory=True) if offloads else nullcontext():
        return backbone(lm)(**{"use_cache": False} | inputs).last_hidden_state


def in_one_pass(function: Callable) -> Callable:
    """Make a function of a model one forward pass of it.

    Where the model's weights are spread over processes, the engine has given it a `one_pass`, within which they are
    put together; all processes must go through as many passes.
    """

    @wraps(function)
    def through(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        one_pass = getattr(model, "one_pass", None)
        if one_pass is None:
            return function(model, *args, **kwargs)
        return one_pass(lambda: function(model, *args, **kwargs))

    return through


def hidden_states(lm: nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
    """Last hidden states of right-padded rows.

    Attention is causal, so tokens never see the padding behind them and no mask is needed.

    input_ids  [B, S]
    returns    [B, S, H]
    """
    return last_states(lm, input_ids=input_ids)


def logits_of(lm: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Logits of hidden states in float32 or better, with the scaling some families apply after their head.

    hidden   [..., H]
    returns  [..., V]
    """
    lm = plain_lm(lm)
    head = lm.get_output_embeddings()
    # Not called as a module: weights that are spread over processes are put together once a pass, not once a call.
    logits = F.linear(hidden, head.weight, head.bias) if type(head) is nn.Linear else head(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    text = lm.config.get_text_config()
    if (scale := getattr(text, "logit_scale", None)) is not None:  # Cohere
        logits = logits * scale
    if (scaling := getattr(text, "logits_scaling", None)) is not None:  # Granite
        logits = logits / scaling
    if (cap := getattr(text, "final_logit_softcapping", None)) is not None:  # Gemma 2
        logits = torch.tanh(logits / cap) * cap
    return without_spare(lm, logits)


def leave_out_spare(lm: nn.Module, tokenizer) -> None:
    """Let logits_of, and what samples, take ids without a token out of the model's distribution.

    A prompt holds none of them and an answer must not: other models may have fewer rows, and no text shows them.
    """
    spare = spare_ids(tokenizer, plain_lm(lm).config.get_text_config().vocab_size)  # weights may be spread
    if spare:
        plain_lm(lm).spare_ids = torch.tensor(spare)


def without_spare(lm: nn.Module, logits: torch.Tensor) -> torch.Tensor:
    """Logits [..., V], changed in place, that give no chance to the ids that leave_out_spare has found."""
    lm = plain_lm(lm)
    spare = getattr(lm, "spare_ids", None)
    if spare is None:
        return logits
    if spare.device != logits.device:  # once for all passes: on its way to a GPU the host would wait
        spare = lm.spare_ids = spare.to(logits.device)
    return logits.index_fill_(-1, spare, NO_CHANCE)

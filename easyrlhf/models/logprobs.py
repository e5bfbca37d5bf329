"""Log-probabilities of tokens under a causal language model. The one place where logits move by one."""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from easyrlhf.models.context_parallel import CutStates, read
from easyrlhf.models.flat_rows import on_device
from easyrlhf.models.parts import in_one_pass, logits_of
from easyrlhf.models.prefix_sharing import PromptGroup, completion_states, row_states

LOGITS_BYTES = {"cpu": 64 * 2**20, "mps": 64 * 2**20, "cuda": 2**30}


def predicting_states(lm: nn.Module, input_ids: Tensor, mask: Tensor) -> tuple[Tensor | CutStates, Tensor, Tensor]:
    """Hidden states, the rows of those that predict the tokens the mask counts, one position before; and these tokens.

    input_ids, mask  [B, S]            right-padded; the mask counts no first token, and may be on the CPU
    returns          [L, H], [n], [n]  n = mask.sum(), row by row
    """
    before = mask[:, 1:].cpu().numpy() != 0
    lengths = (np.arange(1, mask.shape[1]) * before).max(1)  # no state is read of a last token
    hidden, begins = row_states(lm, input_ids, lengths)
    rows, steps = before.nonzero()
    states, targets = on_device(hidden.device, begins[rows] + steps, rows * mask.shape[1] + steps + 1)
    return hidden, states, input_ids.flatten()[targets]


@in_one_pass
def row_token_logprobs(lm: nn.Module, input_ids: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability of every token the mask counts, given the tokens before it, in float32.

    Only the rows that are counted pass through the head, in chunks, so [B, S, V] never exists.

    input_ids, mask  [B, S]  right-padded; the mask counts no first token, and may be on the CPU
    returns          [n]     n = mask.sum(), row by row
    """
    hidden, before, targets = predicting_states(lm, input_ids, mask)
    return read(hidden, before, partial(logprobs_of, lm, temperature=temperature), targets)


@in_one_pass
def token_logprobs(lm: nn.Module, groups: list[PromptGroup], share: str = "off", temperature: float = 1.0) -> Tensor:
    """Log-probability of every completion token given its prompt and those before it; `share` as in completion_states.

    returns  [n]  completion by completion, group by group
    """
    states = completion_states(lm, groups, share)
    return read(states.hidden, states.before, partial(logprobs_of, lm, temperature=temperature), states.targets)


@in_one_pass
def sequence_logprobs(lm: nn.Module, groups: list[PromptGroup], share: str = "off") -> Tensor:
    """Log-probability of each completion given its prompt, summed over its tokens; `share` as in completion_states.

    returns  [N]  group by group
    """
    states = completion_states(lm, groups, share)
    logprobs = read(states.hidden, states.before, partial(logprobs_of, lm), states.targets)
    return logprobs.new_zeros(len(states.last)).index_add(0, states.owners, logprobs)


def logprobs_of(lm: nn.Module, states: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability of each target under the distribution that its hidden state predicts, in float32 or better.

    states  [n, H]    targets  [n]    returns  [n]
    """

    def logprobs(rows: Tensor, ids: Tensor) -> Tensor:
        return -F.cross_entropy(tempered(lm, rows, temperature), ids, reduction="none")

    size = chunk_size(lm, states)
    if len(states) <= size:
        return logprobs(states, targets)
    chunks = zip(states.split(size), targets.split(size), strict=True)
    if torch.is_grad_enabled():
        return torch.cat([checkpoint(logprobs, rows, ids, use_reentrant=False) for rows, ids in chunks])
    return torch.cat([logprobs(rows, ids) for rows, ids in chunks])


@torch.no_grad()
@in_one_pass
def token_logprobs_and_entropies(
    lm: nn.Module, groups: list[PromptGroup], share: str = "off", temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """token_logprobs without gradient, and the entropies.

    returns  [n], [n]  nats
    """
    states = completion_states(lm, groups, share)
    both = partial(logprobs_and_entropies_of, lm, temperature=temperature)
    return read(states.hidden, states.before, both, states.targets).unbind(1)


def logprobs_and_entropies_of(lm: nn.Module, states: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """As logprobs_of, and the entropy of the distribution that each state predicts.

    states  [n, H]    targets  [n]    returns  [n, 2]  nats
    """
    size = chunk_size(lm, states)
    logprobs, entropies = [], []
    for rows, ids in zip(states.split(size), targets.split(size), strict=True):
        logits = tempered(lm, rows, temperature)
        logprobs.append(-F.cross_entropy(logits, ids, reduction="none"))
        log_normaliser = logits.logsumexp(-1)
        entropies.append(log_normaliser - (torch.exp(logits - log_normaliser[:, None]) * logits).sum(-1))
    return torch.stack([torch.cat(logprobs), torch.cat(entropies)], dim=1)


def tempered(lm: nn.Module, states: Tensor, temperature: float) -> Tensor:
    """Logits divided by the temperature, which costs nothing at 1.  [n, V]"""
    logits = logits_of(lm, states)
    return logits if temperature == 1 else logits / temperature


def chunk_size(lm: nn.Module, states: Tensor) -> int:
    """Rows whose float32 logits fit the memory budget of the device."""
    vocabulary = lm.get_output_embeddings().weight.shape[0]
    return max(1, LOGITS_BYTES[states.device.type] // (4 * vocabulary))

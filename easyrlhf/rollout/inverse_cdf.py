"""One draw from a softmax for each row."""

import torch
from torch import Tensor

from easyrlhf.models.flat_rows import sent

BLOCK = 128  # tokens whose probabilities are added up before any is looked at
BELOW_ONE = 1 - 2**-53
NO_FLOAT64 = ("mps",)  # devices whose numbers are drawn on the CPU


def draw_tokens(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw from softmax(logits / temperature) by inverting its cumulative distribution.

    logits       [b, V]  float32 or float64
    uniforms     [b]     float64 in [0, 1), on any device
    temperature          0 takes the likeliest token
    returns      tokens [b], their log-probabilities [b] (at temperature 0: under the plain softmax),
                 on the device of the logits, or on the CPU where that has no float64
    """
    if logits.device.type in NO_FLOAT64:
        logits = logits.cpu()
    uniforms = sent(uniforms, logits.device)
    probabilities = (logits / (temperature or 1.0)).softmax(-1)
    tokens = logits.argmax(-1) if temperature == 0 else invert(probabilities, uniforms)
    return tokens, probabilities.gather(1, tokens[:, None]).squeeze(1).log()


def invert(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The first tokens whose cumulative probability is above the uniform numbers.

    Of many tokens, the block is found first and then the token in it: the sums of blocks are many times cheaper than
    a running sum over the vocabulary.

    probabilities  [b, V]
    uniforms       [b]     float64 in [0, 1)
    returns        [b]
    """
    size = probabilities.shape[1]
    if size <= 8 * BLOCK:
        return search(probabilities.double(), uniforms[:, None])[0].squeeze(1)
    whole = size - size % BLOCK
    sums = probabilities[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1)
    sums = torch.cat([sums, probabilities[:, whole:].sum(-1, keepdim=True)], dim=1)  # [b, blocks]
    block, share = search(sums.double(), uniforms[:, None])

    tokens = block * BLOCK + torch.arange(BLOCK, device=block.device)  # [b, BLOCK]
    inside = probabilities.gather(1, tokens.clamp(max=size - 1)).double() * (tokens < size)
    return (block * BLOCK + search(inside, share)[0]).squeeze(1)


def search(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The first places where the running sum is above this share of the whole.

    weights   [b, n]  float64
    uniforms  [b, 1]  in [0, 1)
    returns   places [b, 1], and which share of the weight there is before the uniform number [b, 1], in [0, 1)
    """
    ends = weights.cumsum(-1)
    # Rounding leaves the last end a little beside 1; scaling by it keeps every draw inside.
    threshold = uniforms * ends[:, -1:]
    place = torch.searchsorted(ends, threshold, right=True)
    own = weights.gather(1, place)
    return place, ((threshold - ends.gather(1, place) + own) / own).clamp(0, BELOW_ONE)

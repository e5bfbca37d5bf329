"""Labels that say how surely the chosen answer is the better one: p, from ½ (a tie) to 1."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_label_loss(
    loss: Callable[..., Tensor], chosen: Tensor, rejected: Tensor, probability: Tensor, *columns: Tensor
) -> Tensor:
    """p · loss(chosen, rejected) + (1 − p) · loss(rejected, chosen): the loss that a label drawn with p expects.

    The second term is computed of the rows with p < 1 alone, so that the others have exactly the plain loss, and the
    gradient of nothing else. With `dpo_loss` it is cDPO's, p being 1 − label_smoothing (Mitchell 2023).

    loss              (chosen, rejected, *columns) → [n], row by row
    chosen, rejected  [N]  what it compares
    probability       [N]  on any device; where it is the CPU, nothing waits for another
    columns           [N]  each: what it takes besides, the same for both orders
    returns           [N]
    """
    found = loss(chosen, rejected, *columns)
    index = (probability < 1).nonzero().squeeze(-1)  # [n]
    if not len(index):
        return found
    p, index = probability[index].to(found), index.to(found.device)
    turned = loss(rejected[index], chosen[index], *(column[index] for column in columns))
    return found.index_put((index,), p * found[index] + (1 - p) * turned)


def cross_entropy(margins: Tensor, probability: Tensor) -> Tensor:
    """Nats that the labels p cost where σ(margin) is claimed of them; at least label_entropy.

    margins, probability  [N]
    returns               [N]
    """
    return -probability * F.logsigmoid(margins) - (1 - probability) * F.logsigmoid(-margins)


def label_entropy(probability: Tensor) -> Tensor:
    """−p ln p − (1 − p) ln(1 − p): nats below which no model can bring the cross-entropy of labels p.  [N]"""
    return -torch.xlogy(probability, probability) - torch.xlogy(1 - probability, 1 - probability)

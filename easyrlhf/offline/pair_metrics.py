"""What is measured of comparisons, whatever is trained on them: scores, accuracy, and the labels themselves."""

import torch
from torch import Tensor

from easyrlhf.losses.soft_labels import cross_entropy, label_entropy
from easyrlhf.models.flat_rows import sent
from easyrlhf.offline.loop import Row

TIES = "ties"  # share of pairs that the accuracy leaves out; only for concluded


def probabilities(rows: list[Row]) -> Tensor:
    """How surely each row's chosen answer is the better one; 1 where it does not say.  [N] float32, on the CPU"""
    return torch.tensor([row.get("chosen_probability", 1.0) for row in rows])


def pair_metrics(chosen: Tensor, rejected: Tensor, weight: Tensor, probability: Tensor) -> dict[str, Tensor]:
    """Weighted sums of the metrics of pairs.

    chosen, rejected, weight, probability  [N]  scores, which may be implicit rewards; weights; labels
    """
    chosen, rejected = chosen.detach(), rejected.detach()
    probability = sent(probability, chosen.device).to(chosen.dtype)
    margins = chosen - rejected
    right = (margins > 0) + 0.5 * (margins == 0)
    found = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": margins,
        "rewards/accuracies": right * (probability > 0.5),
        "cross_entropy": cross_entropy(margins, probability),
        "label_entropy": label_entropy(probability),
        TIES: (probability == 0.5).float(),
    }
    return {name: (weight * values).sum() for name, values in found.items()}


def concluded(means: dict[str, float]) -> dict[str, float]:
    """Means over pairs as they are logged: the accuracy of the pairs that have a winner, and of soft labels more."""
    ties, means = means[TIES], {name: value for name, value in means.items() if name != TIES}
    if ties > 1 - 1e-6:
        del means["rewards/accuracies"]
    else:
        means["rewards/accuracies"] /= 1 - ties
    if means["label_entropy"] == 0:  # all labels are sure, and the loss says what there is to say
        del means["cross_entropy"], means["label_entropy"]
    return means

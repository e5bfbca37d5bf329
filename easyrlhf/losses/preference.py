"""Losses on comparisons."""

import torch.nn.functional as F
from torch import Tensor


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, margin: Tensor) -> Tensor:
    """Negative log-likelihood that chosen beats rejected (Ouyang et al. 2022, eq. 1).

    The margin is Touvron et al. 2023, eq. 2.

    chosen, rejected, margin  [N]  scores, and how much better chosen is known to be (0 when not known)
    returns                   [N]
    """
    return -F.logsigmoid(chosen - rejected - margin)


def centering_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Squared mean score of a pair, which keeps scores around zero (Eisenstein et al. 2023, eq. 2).

    chosen, rejected  [N]
    returns           [N]
    """
    return (chosen + rejected) ** 2

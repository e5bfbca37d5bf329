"""Losses of the offline alignment methods: DPO and its kin, IPO, KTO, ORPO, SimPO, CPO and RRHF.

Every function returns the loss of each row, unreduced. A log-ratio is log policy − log reference of a completion.
Papers differ in what they add up: DPO, KTO and CPO take sums over a completion's tokens; IPO, ORPO, SimPO and RRHF
take means.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

DISCOPOP_TAU = 0.05  # temperature of DiscoPOP's blend, as in the paper and in TRL


def smoothed_logistic_loss(logits: Tensor, label_smoothing: float) -> Tensor:
    """−log σ(logits), the two answers being swapped with probability label_smoothing (Mitchell 2023, cDPO).

    logits   [...]  how much better chosen is than rejected, in nats
    returns  [...]
    """
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)


# --- DPO and its kin: from log-ratios [N], sums over the tokens of a completion, to losses [N]


def dpo_loss(chosen: Tensor, rejected: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7); smoothed, it is cDPO (Mitchell 2023).

    TRL's `sigmoid` has no smoothing: the two agree at 0.
    """
    return smoothed_logistic_loss(beta * (chosen - rejected), label_smoothing)


def hinge_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Hinge on the reward margin (SLiC, Zhao et al. 2023; on normalised log-ratios in RSO, Liu et al. 2024)."""
    return torch.relu(1 - beta * (chosen - rejected))


def robust_loss(chosen: Tensor, rejected: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """DPO's loss without the bias of labels flipped with probability label_smoothing (Chowdhury et al. 2024, rDPO).

    label_smoothing  below ½
    """
    logits = beta * (chosen - rejected)
    kept, flipped = -F.logsigmoid(logits), -F.logsigmoid(-logits)
    return ((1 - label_smoothing) * kept - label_smoothing * flipped) / (1 - 2 * label_smoothing)


def exo_pair_loss(chosen: Tensor, rejected: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """KL from the policy's choice of the two to that of smoothed labels (EXO, Ji et al. 2024, eq. 16).

    label_smoothing  above 0: at 0 the KL is infinite
    """
    logits = beta * (chosen - rejected)
    smoothing = torch.as_tensor(label_smoothing, dtype=logits.dtype, device=logits.device)
    right = logits.sigmoid() * (F.logsigmoid(logits) - torch.log1p(-smoothing))
    wrong = (-logits).sigmoid() * (F.logsigmoid(-logits) - smoothing.log())
    return right + wrong


def nca_pair_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Noise contrastive alignment of a pair: also keeps the likelihood of chosen up (Chen et al. 2024)."""
    up, down = F.logsigmoid(beta * chosen), F.logsigmoid(-beta * chosen) + F.logsigmoid(-beta * rejected)
    return -up - 0.5 * down


def bco_pair_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Two binary classifications, without BCO's shift of rewards, as TRL has it (Jung et al. 2024)."""
    return -F.logsigmoid(beta * chosen) - F.logsigmoid(-beta * rejected)


def sppo_hard_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Squared distance of the log-ratios from ±1/(2β): eq. 4.7 of SPPO with win rates 1 and 0 (Wu et al. 2024)."""
    return (chosen - 0.5 / beta) ** 2 + (rejected + 0.5 / beta) ** 2


def apo_zero_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Chosen up and rejected down: for answers better than the model's own (D'Oosterlinck et al. 2024, eq. 7)."""
    return (-beta * chosen).sigmoid() + (beta * rejected).sigmoid()


def apo_down_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Both down, rejected more: for answers worse than the model's own (D'Oosterlinck et al. 2024, eq. 8)."""
    return (beta * chosen).sigmoid() + (-beta * (chosen - rejected)).sigmoid()


def discopop_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Logistic and exponential loss, blended by the reward margin itself (DiscoPOP, Lu et al. 2024, eq. 5)."""
    logits = beta * (chosen - rejected)
    gate = logits / DISCOPOP_TAU
    logistic = -F.logsigmoid(logits) * (-gate).sigmoid()
    exponential = (-logits + F.logsigmoid(gate)).exp()  # e^−x · σ(x/τ), which overflows apart
    return logistic + exponential


def _unsmoothed(loss: Callable) -> Callable:
    """The loss as one of DPO_LOSSES: called with a label_smoothing, which it does not use."""
    return lambda chosen, rejected, beta, label_smoothing: loss(chosen, rejected, beta)


# name of --loss_type -> f(chosen, rejected, beta, label_smoothing) -> [N]
DPO_LOSSES: dict[str, Callable[[Tensor, Tensor, float, float], Tensor]] = {
    "sigmoid": dpo_loss,
    "hinge": _unsmoothed(hinge_loss),
    "robust": robust_loss,
    "exo_pair": exo_pair_loss,
    "nca_pair": _unsmoothed(nca_pair_loss),
    "bco_pair": _unsmoothed(bco_pair_loss),
    "sppo_hard": _unsmoothed(sppo_hard_loss),
    "apo_zero": _unsmoothed(apo_zero_loss),
    "apo_down": _unsmoothed(apo_down_loss),
    "discopop": _unsmoothed(discopop_loss),
}


def aot_loss(logratios: Tensor, matched_ref_logratios: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """Alignment via optimal transport: the policy's margins dominate the reference's (Melnyk et al. 2024, paired).

    logratios              [N]  log policy(chosen) − log policy(rejected), sums over tokens, no reference
    matched_ref_logratios  [N]  the same of the reference, at the same rank: see aot_matches
    returns                [N]
    """
    return smoothed_logistic_loss(beta * (logratios - matched_ref_logratios), label_smoothing)


def aot_matches(logratios: Tensor, ref_logratios: Tensor) -> Tensor:
    """For every row of a batch the reference value that has the row's rank, so that losses need no sorting.

    logratios, ref_logratios  [N]  of the whole optimiser batch
    returns                   [N]
    """
    ranks = logratios.argsort(stable=True).argsort()
    return ref_logratios.sort().values[ranks]


# --- the other methods


def ipo_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """Squared distance of the log-ratio margin from 1/(2β) (Azar et al. 2024, eq. 17, β being the paper's τ).

    Its authors advised TRL to take means over tokens, the form of their experiments.

    chosen, rejected  [N]  mean log-ratios per token
    returns           [N]
    """
    return (chosen - rejected - 1 / (2 * beta)) ** 2


def odds_ratio_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """−log σ of the log odds ratio (ORPO, Hong et al. 2024, eq. 7); the caller weighs it and adds the SFT loss.

    chosen, rejected  [N]  mean log-probabilities per token; log odds are finite at 0 too
    returns           [N]
    """
    return -F.logsigmoid(_log_odds(chosen) - _log_odds(rejected))


def _log_odds(logprobs: Tensor) -> Tensor:
    """log p/(1 − p), p being kept one rounding error below 1."""
    logprobs = logprobs.clamp(max=-torch.finfo(logprobs.dtype).eps)
    return logprobs - torch.log(-torch.expm1(logprobs))


def simpo_loss(chosen: Tensor, rejected: Tensor, beta: float, gamma: float, label_smoothing: float = 0.0) -> Tensor:
    """−log σ(β · margin − γ) (SimPO, Meng et al. 2024, eq. 6).

    gamma is TRL's and the paper's γ itself, not the ratio γ/β: TRL takes simpo_gamma / β off the margin before it
    multiplies by β, which is the same.

    chosen, rejected  [N]  mean log-probabilities per token
    returns           [N]
    """
    return smoothed_logistic_loss(beta * (chosen - rejected) - gamma, label_smoothing)


def cpo_loss(chosen: Tensor, rejected: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """DPO's loss with a uniform reference (CPO, Xu et al. 2024, eq. 3); the caller adds the SFT loss.

    chosen, rejected  [N]  log-probabilities, sums over the tokens of a completion
    returns           [N]
    """
    return smoothed_logistic_loss(beta * (chosen - rejected), label_smoothing)


def rrhf_loss(mean_logprobs: Tensor, scores: Tensor) -> Tensor:
    """Hinge on every pair of answers to one prompt: Σ max(0, pᵢ − pⱼ) where scoreᵢ < scoreⱼ (Yuan et al. 2023, eq. 3).

    mean_logprobs  [K]  Σ log-probabilities / tokens^length_penalty
    scores         [K]  higher is better; ties form no pair
    returns        []
    """
    worse = scores[:, None] < scores  # [K, K]
    return (torch.relu(mean_logprobs[:, None] - mean_logprobs) * worse).sum()


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

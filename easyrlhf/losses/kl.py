"""Estimators of KL(policy || reference) from tokens drawn from the policy (Schulman 2020, "Approximating KL")."""

import torch
from torch import Tensor


def kl_k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Log-ratio of each token: unbiased, may be negative for a single token.

    logprobs, ref_logprobs  [B, T]
    returns                 [B, T]  nats
    """
    return logprobs - ref_logprobs


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """r − 1 − log r with r = reference / policy: unbiased, never negative, lower variance.

    As a reward it ascends another objective than k1 does: its own gradient is lost in the score-function estimate.

    logprobs, ref_logprobs  [B, T]
    returns                 [B, T]  nats
    """
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


KL_ESTIMATORS = {"k1": kl_k1, "k3": kl_k3}


def adapted_kl_coef(kl_coef: float, kl: float, kl_target: float, episodes: int) -> float:
    """Next KL coefficient of the proportional controller of Ziegler et al. 2019, section 2.2.

    kl, kl_target  nats per completion
    episodes       completions since the last change; the horizon is the paper's 10,000
    """
    error = min(max(kl / kl_target - 1.0, -0.2), 0.2)
    return kl_coef * (1.0 + error * episodes / 10_000)

"""Off-policy corrections: the samples are another policy's than the one that learns from them, by a little.

A sampler rounds otherwise than the training code, or its weights are a few updates old.
"""

import torch
from torch import Tensor


def importance_weights(logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, level: str, cap: float) -> Tensor:
    """Truncated importance weights: how likely each sample is to the policy rather than to its sampler, at most cap.

    token     the ratio of each token's probabilities (Yao et al. 2025, truncated importance sampling)
    sequence  the ratio of the whole completion's, the same for all of its tokens; unbiased but for the truncation

    logprobs          [B, T]  under the policy before its update
    sampler_logprobs  [B, T]  as the tokens were drawn; nan where that is not known, which weighs nothing
    mask              [B, T]  1 on tokens that count
    returns           [B, T]  0 where the mask is
    """
    log_ratios = (logprobs - sampler_logprobs).nan_to_num(nan=0.0) * mask
    if level == "sequence":
        log_ratios = log_ratios.sum(1, keepdim=True)
    return log_ratios.exp().clamp(max=cap) * mask


def off_policy_mask(log_ratios: Tensor, advantages: Tensor, rows: Tensor, threshold: float) -> Tensor:
    """0 on what the policy has moved away from and should not learn to avoid any further, 1 elsewhere.

    Left out are tokens of negative advantage in completions whose mean log-ratio, an estimate of the KL divergence of
    the policy from its sampler, is above the threshold (DeepSeek-AI 2025, V3.2, section 3.1).

    log_ratios  [n]  sampler's minus policy's log-probability of each token, nats; nan where it is not known
    advantages  [n]
    rows        [n]  number of the completion that each token belongs to, from 0
    returns     [n]
    """
    count = int(rows.max()) + 1 if len(rows) else 0
    sums = log_ratios.new_zeros(count).index_add(0, rows, log_ratios.nan_to_num(nan=0.0))
    lengths = torch.bincount(rows, minlength=count)
    far = sums / lengths.clamp(min=1) > threshold
    return (~(far[rows] & (advantages < 0))).to(log_ratios.dtype)

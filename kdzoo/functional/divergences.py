"""Divergences between distributions over classes, in log space throughout."""

from __future__ import annotations

import torch
from torch import Tensor


def kl_divergence(target_log_probs: Tensor, log_probs: Tensor) -> Tensor:
    """Compute KL(target || other) of each row.

    Args:
        target_log_probs: [N, K] log-probabilities; -inf is a probability of 0, and 0 log 0 is 0.
        log_probs: [N, K] log-probabilities, finite where the target is positive.

    Returns:
        [N] nats.
    """
    target = target_log_probs.exp()
    # Where the target is 0 its logarithm may be -inf, and 0 * inf would be NaN.
    difference = (target_log_probs - log_probs).masked_fill_(target == 0, 0.0)
    return (target * difference).sum(dim=-1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute -log softmax(logits)[label] of each row.

    Args:
        logits: [N, K].
        labels: [N] class numbers.

    Returns:
        [N] nats.
    """
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

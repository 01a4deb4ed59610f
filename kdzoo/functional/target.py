"""The target class apart from all others, in log space: what the losses that decouple the two compare."""

from __future__ import annotations

import torch
from torch import Tensor


def total_of_others(log_probs: Tensor, target: Tensor) -> Tensor:
    """Compute the logarithm of what all classes but the target hold together.

    Args:
        log_probs: [N, K] log-probabilities; -inf is a probability of 0.
        target: [N, 1] class numbers.

    Returns:
        [N, 1]; -inf where the target holds everything.
    """
    return log_probs.scatter(1, target, -torch.inf).logsumexp(dim=-1, keepdim=True)


def shares_of_others(log_probs: Tensor, target: Tensor, total: Tensor) -> Tensor:
    """Compute the distribution among all classes but the target.

    Args:
        log_probs: [N, K] log-probabilities; -inf is a probability of 0.
        target: [N, 1] class numbers.
        total: [N, 1], of `total_of_others`, made finite.

    Returns:
        [N, K], rows of sum 1 with 0 for the target; where the target has all of the probability, no
        distribution is left and all are 0.
    """
    return (log_probs.scatter(1, target, -torch.inf) - total).exp()

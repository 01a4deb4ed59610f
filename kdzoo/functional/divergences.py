"""Divergences between distributions over classes, in log space throughout."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.outputs import SoftLabels


def softened(student_logits: Tensor, soft_labels: SoftLabels, temperature: float) -> tuple[Tensor, Tensor]:
    """Give what losses on logits compare, as log-probabilities.

    Args:
        student_logits: [N, K], finite.
        soft_labels: [N, K] distributions; the temperature divides them only if they are scores.
        temperature: T, positive; a tensor [] takes gradients.

    Returns:
        [N, K] of the student, finite, and [N, K] of the soft labels, where -inf is a probability of 0.
    """
    return torch.log_softmax(student_logits / temperature, dim=-1), soft_labels.log_probs(temperature)


def kl_divergence(target_log_probs: Tensor, log_probs: Tensor, *, scale: float = 1.0) -> Tensor:
    """Compute KL(target || other) of each row.

    Args:
        target_log_probs: [N, K] log-probabilities; -inf is a probability of 0, and 0 log 0 is 0.
        log_probs: [N, K] log-probabilities, finite.
        scale: of the divergence, such as T^2.

    Returns:
        [N] nats, times the scale.
    """
    # The scale goes to the target, which takes no gradient: there it costs nothing in the backward pass.
    target = scale * target_log_probs.exp()
    return (target * (finite(target_log_probs) - log_probs)).sum(dim=-1)


def finite(log_probs: Tensor) -> Tensor:
    """Replace -inf, a probability of 0, by the least number: what it is weighed with is 0, and 0 times
    infinity would be NaN.

    Args:
        log_probs: [...], of any shape.

    Returns:
        [...], the same but for what was -inf.
    """
    # A mask on the difference would do as well, but takes part in the backward pass.
    return log_probs.clamp(min=torch.finfo(log_probs.dtype).min)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute -log softmax(logits)[label] of each row.

    Args:
        logits: [N, K].
        labels: [N] class numbers.

    Returns:
        [N] nats.
    """
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")

"""Logit standardisation: scores of two networks compared by their order and shape, not by their size."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.outputs import SoftLabels, rescored


def standardized(logits: Tensor) -> Tensor:
    """Bring the logits of each sample to mean 0 and standard deviation 1.

    Args:
        logits: [N, K].

    Returns:
        [N, K]; a row of equal numbers becomes zeros, and takes no gradient.

    Source: Sun, Ren, Li, Wang and Cao 2024, "Logit Standardization in Knowledge Distillation", CVPR,
        https://arxiv.org/abs/2403.01427, algorithm 1. Paper and here: the deviation divides by K; authors'
        code: by K - 1, and 1e-7 is added to it.
    """
    centred = logits - logits.mean(dim=-1, keepdim=True)
    spread: Tensor = torch.linalg.vector_norm(centred, dim=-1, keepdim=True) / logits.shape[-1] ** 0.5
    nothing = spread == 0
    found: Tensor = (centred / spread.masked_fill(nothing, 1.0)).masked_fill(nothing, 0.0)
    return found


def comparable(
    student_logits: Tensor, soft_labels: SoftLabels, standardize: bool
) -> tuple[Tensor, SoftLabels]:
    """Give a student's logits and soft labels as a method compares them.

    Args:
        student_logits: [N, K].
        soft_labels: [N, K].
        standardize: both are standardised, for which soft labels must be scores.

    Raises:
        UsageError: they shall be, and are probabilities.
    """
    if not standardize:
        return student_logits, soft_labels
    return standardized(student_logits), rescored(soft_labels, standardized)

"""WSLD: follow the soft labels most where the student is worse at the label than they are.

Zhou, Song, Chen, Zhou, Wang, Yuan and Zhang 2021, "Rethinking Soft Labels for Knowledge Distillation: A
Bias-Variance Tradeoff Perspective", ICLR, https://arxiv.org/abs/2102.00650
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.checks import NonNegative, Positive
from kdzoo.distillers.base import Distiller
from kdzoo.functional.divergences import cross_entropy, softened
from kdzoo.functional.standardization import comparable
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, SoftLabels
from kdzoo.registry import DISTILLERS


def sample_weights(student_logits: Tensor, soft_labels: SoftLabels, labels: Tensor, *, eps: float) -> Tensor:
    """Compute 1 - exp(-CE(student, label) / (CE(soft labels, label) + eps)), without any temperature.

    Args:
        student_logits: [N, K], finite.
        soft_labels: [N, K] distributions.
        labels: [N] class numbers.
        eps: keeps the denominator positive, at least 0.

    Returns:
        [N] from 0 to 1, constants for the gradient: 0 where the student is sure of the label, or the soft
        labels exclude it; 1 where they are sure of it and the student is not.

    Source: Zhou et al. 2021, the weighted soft labels. Paper: eps = 0; authors' code: 1e-7.
    """
    of_student = cross_entropy(student_logits.detach(), labels)
    # Rounding takes probabilities above 1, where a cross-entropy is negative, and eps would not do.
    of_label = soft_labels.log_probs(1.0).gather(1, labels[:, None]).squeeze(-1).neg().clamp(min=0.0)
    # Whoever is sure has nothing to learn, even of sure soft labels: 0 / 0 is 0.
    ratios = (of_student / (of_label + eps)).masked_fill(of_student == 0, 0.0)
    return -torch.expm1(-ratios)


def wsld_loss(
    student_logits: Tensor, soft_labels: SoftLabels, labels: Tensor, *, temperature: float, eps: float
) -> Tensor:
    """Compute w T^2 CE(soft labels, softmax(student / T)) of each sample, with w as in `sample_weights`.

    Args:
        student_logits: [N, K], finite.
        soft_labels: [N, K] distributions; the temperature divides them only if they are scores.
        labels: [N] class numbers.
        temperature: T, positive; the weights have none.
        eps: keeps the weights' denominator positive, at least 0.

    Returns:
        [N] nats, a cross-entropy: it does not vanish where student and soft labels agree.

    Source: Zhou et al. 2021, the weighted soft labels; T^2 and the cross-entropy as in the authors' code.
    """
    log_probs, soft = softened(student_logits, soft_labels, temperature)
    # The factor goes to the side that takes no gradient.
    scale = -(temperature**2) * sample_weights(student_logits, soft_labels, labels, eps=eps)
    return (scale[:, None] * soft.exp() * log_probs).sum(dim=-1)


@DISTILLERS.register("wsld")
class WSLD(Distiller):
    """CE + alpha w T^2 CE(soft labels, student), the mean over the batch.

    Args:
        temperature: T, divides the student's logits, and soft labels that are scores. Default: the paper's
            for CIFAR-100; for ImageNet the authors' code has 2.
        alpha: weight of the soft term; the labels keep theirs, 1. Default: the paper's for CIFAR-100; for
            ImageNet the authors' code has 2.5.
        eps: keeps the denominator of w positive. Paper: 0. Default: the authors' code.
        standardize: bring both networks' logits to mean 0 and deviation 1 first (Sun et al. 2024), for which
            soft labels must be scores. Default: the paper's formula, without.
    """

    needs = frozenset({"soft_labels"})
    paper = (
        "Zhou, Song, Chen, Zhou, Wang, Yuan and Zhang 2021, Rethinking Soft Labels for Knowledge "
        "Distillation: A Bias-Variance Tradeoff Perspective, ICLR, https://arxiv.org/abs/2102.00650"
    )
    year = 2021

    def __init__(
        self,
        *,
        temperature: Positive = 4.0,
        alpha: NonNegative = 2.25,
        eps: NonNegative = 1e-7,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.alpha = alpha
        self.eps = eps
        self.needs_scores = standardize

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give the weighted soft term."""
        logits, soft_labels = comparable(student.logits, guide.soft_labels, self.needs_scores)
        loss = wsld_loss(logits, soft_labels, batch.labels, temperature=self.temperature, eps=self.eps)
        return {"wsld": self.alpha * loss.mean()}

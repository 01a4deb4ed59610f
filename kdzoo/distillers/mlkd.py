"""MLKD: match the teacher's probabilities on three levels: sample by sample, in how alike the samples of a
batch are, and in how alike the classes are.

Jin, Wang and Lin 2023, "Multi-Level Logit Distillation", CVPR,
https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html

This is the loss alone. Paper: predictions are augmented by temperatures; authors' code: by a second, stronger
view of every image as well, and masked by the teacher's confidence; here: by temperatures, without masks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.checks import Fraction, NonNegative, Positive
from kdzoo.distillers.base import Distiller
from kdzoo.functional.divergences import kl_divergence, softened
from kdzoo.functional.standardization import comparable
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, SoftLabels
from kdzoo.registry import DISTILLERS

# Of the authors' code, beside the temperature that is set.
MORE_TEMPERATURES = (2.0, 3.0, 5.0, 6.0)


def mlkd_instance_loss(student_logits: Tensor, soft_labels: SoftLabels, *, temperature: float) -> Tensor:
    """Compute T^2 KL(soft labels || softmax(student / T)) of each sample, which is KD's loss.

    Args:
        student_logits: [N, K], finite.
        soft_labels: [N, K] distributions; the temperature divides them only if they are scores.
        temperature: T, positive.

    Returns:
        [N] nats.

    Source: Jin et al. 2023, instance-level alignment; T^2 as in the authors' code.
    """
    student, teacher = softened(student_logits, soft_labels, temperature)
    return kl_divergence(teacher, student, scale=temperature**2)


def mlkd_batch_loss(student_logits: Tensor, soft_labels: SoftLabels, *, temperature: float) -> Tensor:
    """Compute the squared difference of how alike the samples of the batch are.

    Args:
        student_logits: [N, K], finite.
        soft_labels: [N, K] distributions; the temperature divides them only if they are scores.
        temperature: T, positive; this part is not multiplied by T^2.

    Returns:
        A scalar, the sum over N x N pairs divided by N.

    Source: Jin et al. 2023, batch-level alignment.
    """
    student, teacher = (x.exp() for x in softened(student_logits, soft_labels, temperature))
    return _difference(student, teacher)


def mlkd_class_loss(student_logits: Tensor, soft_labels: SoftLabels, *, temperature: float) -> Tensor:
    """Compute the squared difference of how alike the classes are over the batch.

    Args:
        student_logits: [N, K], finite.
        soft_labels: [N, K] distributions; the temperature divides them only if they are scores.
        temperature: T, positive; this part is not multiplied by T^2.

    Returns:
        A scalar, the sum over K x K pairs divided by K; it grows with the batch.

    Source: Jin et al. 2023, class-level alignment.
    """
    student, teacher = (x.exp() for x in softened(student_logits, soft_labels, temperature))
    return _difference(student.T, teacher.T)


def likeness(rows: Tensor) -> Tensor:
    """Compute the inner products of all pairs of rows.

    Args:
        rows: [M, D], the probabilities of samples, or of classes over the batch.

    Returns:
        [M, M].
    """
    return rows @ rows.T


def _difference(student: Tensor, teacher: Tensor) -> Tensor:
    return (likeness(student) - likeness(teacher)).square().sum() / len(student)


def _parts(student_logits: Tensor, soft_labels: SoftLabels, temperature: float) -> list[Tensor]:
    """Give all three parts of the batch, from one softmax."""
    student, teacher = softened(student_logits, soft_labels, temperature)
    ours, theirs = student.exp(), teacher.exp()
    return [
        kl_divergence(teacher, student, scale=temperature**2).mean(),
        _difference(ours, theirs),
        _difference(ours.T, theirs.T),
    ]


@DISTILLERS.register("mlkd")
class MLKD(Distiller):
    """(1 - alpha) CE + alpha (instance + batch + class part), summed over the temperatures.

    Args:
        temperature: T. Default: the authors' code for CIFAR-100; its settings for ImageNet have 1.
        more_temperatures: whether 2, 3, 5 and 6 are taken as well. Default: the authors' code.
        alpha: weight of the three parts. Default: the authors' code for CIFAR-100; its settings for ImageNet
            have 0.5.
        batch_weight: factor of the batch part. Default: the authors' code, which adds the parts up.
        class_weight: factor of the class part. Default: the authors' code.
        standardize: bring both networks' logits to mean 0 and deviation 1 first (Sun et al. 2024), for which
            soft labels must be scores. Default: the paper's formula, without.
    """

    needs = frozenset({"soft_labels"})
    paper = (
        "Jin, Wang and Lin 2023, Multi-Level Logit Distillation, CVPR, https://openaccess.thecvf.com/content/"
        "CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html"
    )
    year = 2023

    def __init__(
        self,
        *,
        temperature: Positive = 4.0,
        more_temperatures: bool = True,
        alpha: Fraction = 0.9,
        batch_weight: NonNegative = 1.0,
        class_weight: NonNegative = 1.0,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.temperatures = (temperature, *(MORE_TEMPERATURES if more_temperatures else ()))
        self.alpha = alpha
        self.batch_weight = batch_weight
        self.class_weight = class_weight
        self.needs_scores = standardize

    def label_weight(self, progress: Progress) -> float:
        """Leave 1 - alpha to the labels."""
        return 1.0 - self.alpha

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give the three parts, each summed over the temperatures."""
        logits, soft_labels = comparable(student.logits, guide.soft_labels, self.needs_scores)
        parts = [_parts(logits, soft_labels, temperature) for temperature in self.temperatures]
        instance, of_batch, of_class = (torch.stack(part).sum() for part in zip(*parts, strict=True))
        return {
            "instance": self.alpha * instance,
            "batch": self.alpha * self.batch_weight * of_batch,
            "class": self.alpha * self.class_weight * of_class,
        }

"""DIST: keep how the teacher's probabilities rise and fall, over the classes of a sample and over the samples
of a class, and not the probabilities themselves.

Huang, You, Wang, Qian and Xu 2022, "Knowledge Distillation from A Stronger Teacher", NeurIPS,
https://arxiv.org/abs/2205.10536
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.checks import NonNegative, Positive
from kdzoo.distillers.base import Distiller
from kdzoo.functional.divergences import finite, softened
from kdzoo.functional.standardization import comparable
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, SoftLabels
from kdzoo.registry import DISTILLERS

# Probabilities whose root mean square deviation is at most so many roundings of the largest count as equal.
ROUNDINGS = 16


def dist_inter_loss(student_logits: Tensor, soft_labels: SoftLabels, *, temperature: float) -> Tensor:
    """Compute T^2 (1 - the correlation of both networks' probabilities over the classes) of each sample.

    Args:
        student_logits: [N, K], finite.
        soft_labels: [N, K] distributions; the temperature divides them only if they are scores.
        temperature: T, positive.

    Returns:
        [N], from 0 to 2 T^2; T^2, without a gradient, where all classes of a row are equally likely.

    Source: Huang et al. 2022, the inter-class relation. Paper: without T^2; authors' code and here: with it.
    """
    return _distance(*softened(student_logits, soft_labels, temperature), temperature, 1)


def dist_intra_loss(student_logits: Tensor, soft_labels: SoftLabels, *, temperature: float) -> Tensor:
    """Compute T^2 (1 - the correlation over the samples), mean over classes.

    Args:
        student_logits: [N, K], finite.
        soft_labels: [N, K] distributions; the temperature divides them only if they are scores.
        temperature: T, positive.

    Returns:
        A scalar from 0 to 2 T^2; a class that is equally likely in all samples, as it is in a batch of one,
        counts T^2 and has no gradient.

    Source: Huang et al. 2022, the intra-class relation. Paper: without T^2; authors' code and here: with it.
    """
    return _distance(*softened(student_logits, soft_labels, temperature), temperature, 0).mean()


def _distance(student: Tensor, teacher: Tensor, temperature: float, dim: int) -> Tensor:
    return temperature**2 * (1 - correlations(student, teacher, dim=dim))


def correlations(student: Tensor, teacher: Tensor, *, dim: int) -> Tensor:
    """Compute Pearson's correlations between the probabilities of two networks.

    Args:
        student: [N, K] log-probabilities, finite.
        teacher: [N, K] log-probabilities; -inf is a probability of 0.
        dim: along which they are correlated: 1 gives a correlation for each row, 0 for each column.

    Returns:
        [N], or [K] for columns; 0 where the probabilities of either are all equal.

    Source: Huang et al. 2022, Pearson's distance. Authors' code: 1e-8 is added to the product of lengths;
        here: none is, and what is equal but for rounding has no direction.
    """
    return (deviations(student, dim=dim) * deviations(teacher, dim=dim)).sum(dim=dim)


def deviations(log_probs: Tensor, *, dim: int) -> Tensor:
    """Compute how probabilities deviate from their mean, as vectors of length 1.

    Args:
        log_probs: [N, K]; -inf is a probability of 0.
        dim: along which the vectors lie.

    Returns:
        [N, K], vectors of length 1, or 0 where the probabilities are all equal.
    """
    # The direction does not depend on the scale. Relative to the largest, tiny probabilities do not vanish,
    # and those that are almost equal keep the digits in which they differ.
    logs = finite(log_probs)
    differences = torch.expm1(logs - logs.detach().amax(dim=dim, keepdim=True))
    centred = differences - differences.mean(dim=dim, keepdim=True)
    lengths: Tensor = torch.linalg.vector_norm(centred, dim=dim, keepdim=True)
    equal = lengths <= ROUNDINGS * torch.finfo(centred.dtype).eps * centred.shape[dim] ** 0.5
    # Filled twice: the first keeps 0/0 out of the forward pass, the second out of the gradient.
    return (centred / lengths.masked_fill(equal, 1.0)).masked_fill(equal, 0.0)


@DISTILLERS.register("dist")
class DIST(Distiller):
    """CE + T^2 (beta (1 - correlation over classes) + gamma (1 - correlation over samples)), means of both.

    Args:
        temperature: T. Default: the authors' settings for CIFAR-100; those for ImageNet have 1.
        beta: weight of the relations between classes. Default: the authors' settings for both.
        gamma: weight of the relations inside a class. Default: the authors' settings for both.
        standardize: bring both networks' logits to mean 0 and deviation 1 first (Sun et al. 2024), for which
            soft labels must be scores. Default: the paper's formula, without.
    """

    needs = frozenset({"soft_labels"})
    paper = (
        "Huang, You, Wang, Qian and Xu 2022, Knowledge Distillation from A Stronger Teacher, NeurIPS, "
        "https://arxiv.org/abs/2205.10536"
    )
    year = 2022

    def __init__(
        self,
        *,
        temperature: Positive = 4.0,
        beta: NonNegative = 2.0,
        gamma: NonNegative = 2.0,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.beta = beta
        self.gamma = gamma
        self.needs_scores = standardize

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give both relations' terms."""
        logits, soft_labels = comparable(student.logits, guide.soft_labels, self.needs_scores)
        both = softened(logits, soft_labels, self.temperature)
        inter, intra = (_distance(*both, self.temperature, dim).mean() for dim in (1, 0))
        return {"inter": self.beta * inter, "intra": self.gamma * intra}

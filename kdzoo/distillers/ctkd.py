"""CTKD: learn the temperature against the student, so that the task grows harder.

Li, Li, Yang, Zhao, Song, Luo, Li and Yang 2023, "Curriculum Temperature for Knowledge Distillation", AAAI,
https://arxiv.org/abs/2211.16231
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdzoo.checks import Count, Fraction, NonNegative, Positive
from kdzoo.distillers.base import Distiller
from kdzoo.functional.divergences import kl_divergence, softened
from kdzoo.functional.standardization import comparable
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, SoftLabels
from kdzoo.registry import DISTILLERS


def ctkd_loss(student_logits: Tensor, soft_labels: SoftLabels, *, temperature: Tensor) -> Tensor:
    """Compute T^2 KL(soft labels || softmax(student / T)) of each sample, with a gradient for T.

    Args:
        student_logits: [N, K], finite.
        soft_labels: [N, K] distributions; the temperature divides them only if they are scores.
        temperature: [] T, positive.

    Returns:
        [N] nats.

    Source: Li et al. 2023, eq. 1, with T on both sides and in the factor.
    """
    # Whatever makes soft labels divides by it, and takes a tensor as well as a number.
    log_probs, target = softened(student_logits, soft_labels, temperature)  # type: ignore[arg-type]
    return temperature**2 * kl_divergence(target, log_probs)


def difficulty(epoch: int, loops: int) -> float:
    """Compute lambda, which rises from 0 to 1 on a half cosine wave.

    Args:
        epoch: the current one, from 0.
        loops: epochs after which it stays at 1.

    Source: Li et al. 2023, the curriculum of lambda; epochs there count from 1.
    """
    return (1 - math.cos(math.pi * min((epoch + 1) / loops, 1.0))) / 2


@DISTILLERS.register("ctkd")
class CTKD(Distiller):
    """(1 - alpha) CE + alpha T^2 KL(soft labels || student), with a T that is trained to raise it.

    T = start + span x sigmoid(theta), one for all samples, with theta at 1 in the beginning; theta moves with
    the student's optimizer, along its gradient times -lambda. Paper: also a T for each sample, from a small
    network; here: the global one, which is the authors' default.

    Args:
        alpha: weight of the *soft* term. Default: the authors' code.
        start: the least temperature. Default: the authors' code.
        span: how far it may rise above that. Default: the authors' code.
        loops: epochs until lambda is 1. Default: the authors' code, 10 of 240; benchmarks of other lengths
            than 200 and 240 epochs take a twentieth of theirs (ours).
        standardize: bring both networks' logits to mean 0 and deviation 1 first (Sun et al. 2024), for which
            soft labels must be scores. Default: the paper's formula, without.
    """

    needs = frozenset({"soft_labels"})
    paper = (
        "Li, Li, Yang, Zhao, Song, Luo, Li and Yang 2023, Curriculum Temperature for Knowledge Distillation, "
        "AAAI, https://arxiv.org/abs/2211.16231"
    )
    year = 2023
    # The public benchmarks add kd to other methods so: labels and soft term both have weight 1.
    sum_options: ClassVar[Mapping[str, Any]] = {"alpha": 1.0}

    def __init__(
        self,
        *,
        alpha: Fraction = 0.9,
        start: Positive = 1.0,
        span: NonNegative = 20.0,
        loops: Count = 10,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.start = start
        self.span = span
        self.loops = loops
        self.needs_scores = standardize
        self.theta = nn.Parameter(torch.ones(()))

    @classmethod
    def scaled_options(cls, epochs: int) -> dict[str, Any]:
        """Keep the curriculum's share of training."""
        return {"loops": 10 if epochs in (200, 240) else max(1, epochs // 20)}

    def label_weight(self, progress: Progress) -> float:
        """Leave 1 - alpha to the labels."""
        return 1.0 - self.alpha

    def label_weight_in_sum(self, progress: Progress) -> float:
        """Leave the labels their whole weight beside other methods, whatever alpha is."""
        return 1.0

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give the soft term."""
        learned = self.start + self.span * torch.sigmoid(self.theta)
        # Its own value, with the gradient turned round: what lowers the loss for the student raises it here.
        turned = -difficulty(progress.epoch, self.loops)
        temperature = learned.detach() + turned * (learned - learned.detach())
        logits, soft_labels = comparable(student.logits, guide.soft_labels, self.needs_scores)
        loss = ctkd_loss(logits, soft_labels, temperature=temperature)
        return {"ctkd": self.alpha * loss.mean()}

"""NKD: learn the target class as far as the teacher believes in it, and the others as a distribution of their
own.

Yang, Zeng, Li, Zhang, Yuan and Li 2023, "From Knowledge Distillation to Self-Knowledge Distillation: A
Unified Approach with Normalized Loss and Customized Soft Labels", ICCV, https://arxiv.org/abs/2303.13005
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.checks import NonNegative, Positive
from kdzoo.distillers.base import Distiller
from kdzoo.functional.divergences import cross_entropy, finite
from kdzoo.functional.standardization import comparable
from kdzoo.functional.target import shares_of_others, total_of_others
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, SoftLabels
from kdzoo.registry import DISTILLERS


def nkd_loss(
    student_logits: Tensor, soft_labels: SoftLabels, labels: Tensor, *, gamma: float, temperature: float
) -> Tensor:
    """Compute - t log s of the target, and - gamma T^2 sum of N(t) log N(s) of all others, of each sample.

    Both parts are cross-entropies: they do not vanish where student and teacher agree.

    Args:
        student_logits: [N, K], finite.
        soft_labels: [N, K] distributions; the temperature divides them only if they are scores.
        labels: [N] class numbers.
        gamma: weight of the non-target part.
        temperature: T, positive, of the non-target part; the target's has none.

    Returns:
        [N] nats. With two classes, or soft labels that are sure of the target, the non-target part is 0.

    Source: Yang et al. 2023, the NKD loss: N is the distribution among all classes but the target.
    """
    target = labels[:, None]
    believed = soft_labels.log_probs(1.0).gather(1, target).squeeze(-1).exp()
    teacher = soft_labels.log_probs(temperature)
    wanted = shares_of_others(teacher, target, finite(total_of_others(teacher, target)))
    # Without the target from the start: the others are told apart however much larger its logit is.
    others = torch.log_softmax((student_logits / temperature).scatter(1, target, -torch.inf), dim=-1)
    # The factor goes to the teacher's side, which takes no gradient.
    nontarget = -(gamma * temperature**2 * wanted * finite(others)).sum(dim=-1)
    return believed * cross_entropy(student_logits, labels) + nontarget


@DISTILLERS.register("nkd")
class NKD(Distiller):
    """CE + (target part + gamma T^2 x non-target part), the mean over the batch.

    Args:
        temperature: T, of the non-target part alone. Default: the authors' code for CIFAR-100; for ImageNet
            it has 1.
        gamma: weight of the non-target part. Default: the authors' code for CIFAR-100; for ImageNet it has
            1.5.
        standardize: bring both networks' logits to mean 0 and deviation 1 first (Sun et al. 2024), for which
            soft labels must be scores. Default: the paper's formula, without.
    """

    needs = frozenset({"soft_labels"})
    paper = (
        "Yang, Zeng, Li, Zhang, Yuan and Li 2023, From Knowledge Distillation to Self-Knowledge "
        "Distillation: A Unified Approach with Normalized Loss and Customized Soft Labels, ICCV, "
        "https://arxiv.org/abs/2303.13005"
    )
    year = 2023

    def __init__(
        self, *, temperature: Positive = 3.0, gamma: NonNegative = 3.5, standardize: bool = False
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.gamma = gamma
        self.needs_scores = standardize

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give both parts as one term."""
        logits, soft_labels = comparable(student.logits, guide.soft_labels, self.needs_scores)
        loss = nkd_loss(logits, soft_labels, batch.labels, gamma=self.gamma, temperature=self.temperature)
        return {"nkd": loss.mean()}

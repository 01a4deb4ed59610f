"""DKD: split KD into what it says about the target class and what it says about all others, and weigh them
apart.

Zhao, Cui, Song, Qiu and Liang 2022, "Decoupled Knowledge Distillation", CVPR, https://arxiv.org/abs/2203.08679
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdzoo.checks import Natural, NonNegative, Positive
from kdzoo.distillers.base import Distiller
from kdzoo.functional.divergences import finite, softened
from kdzoo.functional.standardization import comparable
from kdzoo.functional.target import shares_of_others, total_of_others
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, SoftLabels
from kdzoo.registry import DISTILLERS


def dkd_loss(
    student_logits: Tensor,
    soft_labels: SoftLabels,
    labels: Tensor,
    *,
    alpha: float,
    beta: float,
    temperature: float,
) -> Tensor:
    """Compute T^2 (alpha TCKD + beta NCKD) of each sample.

    Exact at any size of logits: the target is masked in log space rather than lowered by a constant.

    Args:
        student_logits: [N, K], finite.
        soft_labels: [N, K] distributions; the temperature divides them only if they are scores.
        labels: [N] class numbers.
        alpha: weight of the target-class part, KL(b_t || b_s).
        beta: weight of the non-target part, KL(p-hat_t || p-hat_s).
        temperature: T, positive.

    Returns:
        [N] nats. With two classes, or soft labels that are sure of the target, NCKD is 0.

    Source: Zhao et al. 2022, eq. 7; T^2 as in the authors' code.
    """
    target, (student, teacher) = labels[:, None], softened(student_logits, soft_labels, temperature)
    ours, theirs = total_of_others(student, target), finite(total_of_others(teacher, target))
    among_others = shares_of_others(teacher, target, theirs)
    nckd = (among_others * ((finite(teacher) - theirs) - (student - ours))).sum(dim=-1)
    of_target, of_student = finite(teacher.gather(1, target)), student.gather(1, target)
    tckd = of_target.exp() * (of_target - of_student) + theirs.exp() * (theirs - ours)
    return temperature**2 * (alpha * tckd.squeeze(-1) + beta * nckd)


@DISTILLERS.register("dkd")
class DKD(Distiller):
    """CE + warm-up x T^2 (alpha TCKD + beta NCKD), the mean over the batch.

    Args:
        temperature: T. Default: the paper's, CIFAR-100.
        alpha: weight of TCKD. Default: the paper's.
        beta: weight of NCKD. Default: the paper's for most CIFAR-100 pairs.
        warmup: epochs over which the term's weight rises as min((epoch + 1) / warmup, 1); 0 is none.
            Default: the authors' code, 20 of 240; benchmarks of other lengths than 200 and 240 epochs take a
            tenth of theirs.
        standardize: bring both networks' logits to mean 0 and deviation 1 first (Sun et al. 2024), for which
            soft labels must be scores. Default: the paper's formula, without.
    """

    needs = frozenset({"soft_labels"})
    paper = "Zhao, Cui, Song, Qiu and Liang 2022, Decoupled Knowledge Distillation, CVPR, https://arxiv.org/abs/2203.08679"
    year = 2022
    # 2: what both parts need is computed once. 3: without masks. The last digits are others each time.
    version = 3

    def __init__(
        self,
        *,
        temperature: Positive = 4.0,
        alpha: NonNegative = 1.0,
        beta: NonNegative = 8.0,
        warmup: Natural = 20,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.alpha = alpha
        self.beta = beta
        self.warmup = warmup
        self.needs_scores = standardize

    @classmethod
    def scaled_options(cls, epochs: int) -> dict[str, Any]:
        """Keep the warm-up's share of training."""
        return {"warmup": 20 if epochs in (200, 240) else max(1, epochs // 10)}

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give the decoupled term."""
        weight = min((progress.epoch + 1) / self.warmup, 1.0) if self.warmup else 1.0
        logits, soft_labels = comparable(student.logits, guide.soft_labels, self.needs_scores)
        loss = dkd_loss(
            logits, soft_labels, batch.labels,
            alpha=self.alpha, beta=self.beta, temperature=self.temperature,
        )  # fmt: skip
        return {"dkd": weight * loss.mean()}

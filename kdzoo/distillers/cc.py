"""CC: keep how much the samples of a batch correlate in the teacher's embedding.

Peng, Jin, Liu, Li, Wu, Liu, Zhou and Zhang 2019, "Correlation Congruence for Knowledge Distillation", ICCV,
https://arxiv.org/abs/1904.01802
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdzoo.checks import Count, NonNegative, Positive
from kdzoo.distillers.base import Distiller
from kdzoo.functional.vectors import unit
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting
from kdzoo.registry import DISTILLERS

Form = Literal["paper", "consecutive"]
# Of Knowledge-Distillation-Zoo, which has the paper's formula, and of RepDistiller, which has the other one.
WEIGHTS: dict[Form, float] = {"paper": 100.0, "consecutive": 0.02}
# Where embeddings of two widths meet in the consecutive form, as in RepDistiller.
WIDTH = 128


def correlations(embedding: Tensor, *, gamma: float, order: int) -> Tensor:
    """Compute the Gaussian kernel exp(-gamma |a - b|^2) of all pairs of directions, by its Taylor series.

    For vectors of length 1 it is exp(-2 gamma) exp(2 gamma cosine), a series in the cosine.

    Args:
        embedding: [N, D]; a zero row has cosine 0 with all, itself included.
        gamma: how fast the kernel falls, above 0.
        order: the last power of the cosine that is kept, from 1.

    Returns:
        [N, N], from -1 to 1.

    Source: Peng et al. 2019, the Gaussian kernel and its Taylor series.
    """
    directions = unit(embedding)
    cosines = directions @ directions.T
    # They are Poisson's probabilities of mean 2 gamma: none leaves [0, 1], however large gamma and order.
    factors = [math.exp(p * math.log(2 * gamma) - 2 * gamma - math.lgamma(p + 1)) for p in range(order + 1)]
    kernel = torch.full_like(cosines, factors.pop())
    for factor in reversed(factors):
        kernel = kernel * cosines + factor
    return kernel


def cc_loss(student_embedding: Tensor, teacher_embedding: Tensor, *, gamma: float, order: int) -> Tensor:
    """Compute the mean squared difference of two networks' correlations of the batch.

    Args:
        student_embedding: [N, D].
        teacher_embedding: [N, E]; the two sizes may differ.
        gamma: of the kernel.
        order: of its Taylor series.

    Returns:
        A scalar, the mean over N x N entries, the diagonal included.

    Source: Peng et al. 2019, the correlation congruence term with the Gaussian kernel. torchdistill: a linear
        map to 128 first, and no unit length; Knowledge-Distillation-Zoo and here: the embeddings themselves,
        at unit length.
    """
    student, teacher = (
        correlations(e, gamma=gamma, order=order) for e in (student_embedding, teacher_embedding)
    )
    return (student - teacher).square().mean()


def cc_consecutive_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Compute the mean inner product of the errors |student - teacher| of samples that follow each other.

    It depends on the order of the batch, and is 0 where every second sample agrees with the teacher.

    Args:
        student_embedding: [N, D].
        teacher_embedding: [N, D].

    Returns:
        A scalar, the sum over D and the mean over the N - 1 neighbours; 0 for one sample.

    Source: RepDistiller's CC, by its own words the original author's code. It is no formula of the paper.
    """
    errors = (student_embedding - teacher_embedding).abs()
    return (errors[:-1] * errors[1:]).sum() / max(len(errors) - 1, 1)


@DISTILLERS.register("cc")
class CC(Distiller):
    """CE + weight x the squared difference of how the samples of a batch correlate.

    Args:
        form: paper compares the kernels of all pairs of samples. consecutive is what RepDistiller and code
            that follows it call CC: the products of errors of samples that follow each other in the batch,
            behind a linear map to 128 of each network's embedding, both of which train. Default: the paper's.
        weight: of the term; auto is 100 for paper (Knowledge-Distillation-Zoo's, which has that formula) and
            0.02 for consecutive (RepDistiller's). Default: auto, the forms' scales are far apart.
        gamma: how fast the kernel falls; read by form=paper alone. Default: Knowledge-Distillation-Zoo's.
        order: the last power of the kernel's Taylor series; read by form=paper alone. Default:
            Knowledge-Distillation-Zoo's.
    """

    needs = frozenset({"embedding"})
    paper = (
        "Peng, Jin, Liu, Li, Wu, Liu, Zhou and Zhang 2019, Correlation Congruence for Knowledge "
        "Distillation, ICCV, https://arxiv.org/abs/1904.01802"
    )
    year = 2019
    digest_options = ("form", "gamma", "order")
    digest_scope = "batch"

    def __init__(
        self, student_width: int, teacher_width: int, *, form: Form = "paper",
        weight: NonNegative | Literal["auto"] = "auto", gamma: Positive = 0.4, order: Count = 2,
    ) -> None:  # fmt: skip
        super().__init__()
        self.form: Form = form
        self.weight = WEIGHTS[form] if weight == "auto" else weight
        self.gamma = gamma
        self.order = order
        if form == "consecutive":
            self.student_map = nn.Linear(student_width, WIDTH)
            self.teacher_map = nn.Linear(teacher_width, WIDTH)

    @classmethod
    def for_setting(cls, setting: Setting, **options: Any) -> Distiller:
        """Size the linear maps."""
        return cls(setting.student.embedding[0], setting.teacher.embedding[0], **options)

    def digest(self, teacher: ModelOutput) -> dict[str, Tensor]:
        """Keep the teacher's correlations; the embedding itself where a map of it trains."""
        if self.form == "consecutive":
            return {"embedding": teacher.embedding}
        return {"correlations": self._correlations(teacher)}

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give the difference of correlations, in its form."""
        if self.form == "consecutive":
            teacher = self.teacher_map(guide.teacher["embedding"])
            loss = cc_consecutive_loss(self.student_map(student.embedding), teacher)
        else:
            loss = (self._correlations(student) - guide.teacher["correlations"]).square().mean()
        return {"cc": self.weight * loss}

    def _correlations(self, output: ModelOutput) -> Tensor:
        return correlations(output.embedding, gamma=self.gamma, order=self.order)

"""PKT: give the batch the neighbourhoods that it has in the teacher's embedding.

Passalis and Tefas 2018, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV,
https://arxiv.org/abs/1803.10837
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import threshold

from kdzoo.checks import NonNegative, Positive
from kdzoo.distillers.base import Distiller
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress
from kdzoo.registry import DISTILLERS


def neighbours(embedding: Tensor, *, eps: float) -> Tensor:
    """Compute how likely each sample picks each other: (cosine + 1) / 2, as shares of its row.

    Args:
        embedding: [N, D]; a zero row has cosine 0 with all, itself included.
        eps: added to the lengths, as in the authors' code.

    Returns:
        [N, N], rows of sum 1.

    Source: Passalis and Tefas 2018, with the cosine kernel. Paper: without the diagonal; authors' code and
        here: with it.
    """
    lengths: Tensor = torch.linalg.vector_norm(embedding, dim=1, keepdim=True)
    # A zero row has no direction and takes no gradient; the formula's would be 1 / eps.
    directions = embedding / (threshold(lengths, 0.0, torch.inf) + eps)
    # Their halves have the same shares. Rounding takes the cosine of opposite rows below -1.
    affinities = (directions @ directions.T).add_(1).relu_()
    return affinities / affinities.sum(dim=1, keepdim=True)


def pkt_loss(student_embedding: Tensor, teacher_embedding: Tensor, *, eps: float) -> Tensor:
    """Compute the mean of p_t log((p_t + eps) / (p_s + eps)) over all pairs of the batch.

    Args:
        student_embedding: [N, D].
        teacher_embedding: [N, E]; the two sizes may differ.
        eps: keeps the logarithms finite, at least 0; without it a student's 0 costs infinitely much.

    Returns:
        A scalar in nats, the mean over N x N entries, the diagonal included.

    Source: Passalis and Tefas 2018. Paper: the sum; authors' code and here: the mean.
    """
    student, teacher = (neighbours(e, eps=eps) for e in (student_embedding, teacher_embedding))
    return _divergence(student, teacher, eps)


def _divergence(student: Tensor, teacher: Tensor, eps: float) -> Tensor:
    above, below = teacher + eps, student + eps
    if eps == 0:
        # 0 log 0 is 0.
        never = teacher == 0
        above, below = above.masked_fill(never, 1.0), below.masked_fill(never, 1.0)
    # This way round, a gradient is one division; the other way round it is three operations.
    return -(teacher * (below / above).log()).mean()


@DISTILLERS.register("pkt")
class PKT(Distiller):
    """CE + weight x the divergence of the student's neighbourhoods from the teacher's.

    Args:
        weight: of the term. Default: the public CIFAR-100 benchmarks', which divide by N x N.
        eps: keeps divisions and logarithms finite. Default: the authors' code.
    """

    needs = frozenset({"embedding"})
    paper = (
        "Passalis and Tefas 2018, Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV, "
        "https://arxiv.org/abs/1803.10837"
    )
    year = 2018
    # 2: fewer operations, the same values; the gradient's last digits are others.
    version = 2
    digest_options = ("eps",)
    digest_scope = "batch"

    def __init__(self, *, weight: NonNegative = 30000.0, eps: Positive = 1e-7) -> None:
        super().__init__()
        self.weight = weight
        self.eps = eps

    def digest(self, teacher: ModelOutput) -> dict[str, Tensor]:
        """Keep the teacher's neighbourhoods."""
        return {"neighbours": neighbours(teacher.embedding, eps=self.eps)}

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give the divergence of neighbourhoods."""
        own = neighbours(student.embedding, eps=self.eps)
        return {"pkt": self.weight * _divergence(own, guide.teacher["neighbours"], self.eps)}

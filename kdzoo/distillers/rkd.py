"""RKD: keep the teacher's distances between samples, and the angles that they make.

Park, Kim, Lu and Cho 2019, "Relational Knowledge Distillation", CVPR, https://arxiv.org/abs/1904.05068
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import smooth_l1_loss
from torch.utils.checkpoint import checkpoint

from kdzoo.checks import NonNegative
from kdzoo.distillers.base import Distiller
from kdzoo.functional.vectors import unit
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress
from kdzoo.registry import DISTILLERS

# Numbers that the angles of one portion of anchors may take: 16 MiB in float32.
PORTION = 2**22


def distances(embedding: Tensor) -> Tensor:
    """Compute the distances between samples, over the mean of those that are positive.

    Args:
        embedding: [N, D]; equal rows have distance 0, which takes no gradient and no part in the mean.

    Returns:
        [N, N].

    Source: Park et al. 2019, the distance-wise potential.
    """
    # By differences: the quicker way over inner products loses equal and close rows to rounding.
    found = torch.cdist(embedding, embedding, compute_mode="donot_use_mm_for_euclid_dist")
    positive = (found > 0).sum().clamp(min=1)
    mean = found.sum() / positive
    return found / mean.masked_fill(mean == 0, 1.0)


def angles(embedding: Tensor, anchors: Tensor) -> Tensor:
    """Compute the cosines between the directions from each anchor to all pairs of samples.

    Args:
        embedding: [N, D].
        anchors: [A, D], rows of the embedding; a direction from a row to its equal is zero.

    Returns:
        [A, N, N].

    Source: Park et al. 2019, the angle-wise potential.
    """
    directions = unit(embedding[None] - anchors[:, None])
    return directions @ directions.mT


def rkd_distance_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Compute the mean Huber difference of distances, each network's over its own mean distance.

    Args:
        student_embedding: [N, D]; the gradient flows through the mean, too.
        teacher_embedding: [N, E]; the two sizes may differ.

    Returns:
        A scalar, the mean over N x N entries, the zero diagonal included; 0 for one sample.

    Source: Park et al. 2019, RKD-D. Authors' code: zero distances between different samples are floored and
        counted in the mean; here: left out.
    """
    return smooth_l1_loss(distances(student_embedding), distances(teacher_embedding))


def rkd_angle_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Compute the mean Huber difference of the cosines of the angles in all triplets.

    The N x N x N cosines never exist at once: they are made in portions of anchors, in the backward pass
    again.

    Args:
        student_embedding: [N, D].
        teacher_embedding: [N, E]; the two sizes may differ.

    Returns:
        A scalar, the mean over N x N x N entries, degenerate triplets included as 0.

    Source: Park et al. 2019, RKD-A.
    """
    count = len(student_embedding)
    widest = max(count, student_embedding.shape[1], teacher_embedding.shape[1])
    portion = max(1, PORTION // (count * widest))
    total = student_embedding.new_zeros(())
    for start in range(0, count, portion):
        total = total + checkpoint(
            _angle_difference, student_embedding, teacher_embedding, slice(start, start + portion),
            use_reentrant=False, preserve_rng_state=False,
        )  # fmt: skip
    return total / count**3


def _angle_difference(student: Tensor, teacher: Tensor, anchors: slice) -> Tensor:
    return smooth_l1_loss(
        angles(student, student[anchors]), angles(teacher, teacher[anchors]), reduction="sum"
    )


@DISTILLERS.register("rkd")
class RKD(Distiller):
    """CE + distance_weight x the distance loss + angle_weight x the angle loss.

    Args:
        distance_weight: of the distance loss. Default: the paper's ratio, the public benchmarks' 25.
        angle_weight: of the angle loss. Default: twice the distances', as in the paper, the benchmarks' 50.
    """

    needs = frozenset({"embedding"})
    paper = "Park, Kim, Lu and Cho 2019, Relational Knowledge Distillation, CVPR, https://arxiv.org/abs/1904.05068"
    year = 2019

    def __init__(self, *, distance_weight: NonNegative = 25.0, angle_weight: NonNegative = 50.0) -> None:
        super().__init__()
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give both terms; one of weight 0 is not computed."""
        terms, teacher = {}, guide.teacher["embedding"]
        if self.distance_weight:
            terms["distance"] = self.distance_weight * rkd_distance_loss(student.embedding, teacher)
        if self.angle_weight:
            terms["angle"] = self.angle_weight * rkd_angle_loss(student.embedding, teacher)
        return terms

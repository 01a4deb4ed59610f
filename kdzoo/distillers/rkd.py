"""RKD: keep the teacher's distances between samples, and the angles that they make.

Park, Kim, Lu and Cho 2019, "Relational Knowledge Distillation", CVPR, https://arxiv.org/abs/1904.05068
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import smooth_l1_loss

from kdzoo.checks import NonNegative
from kdzoo.distillers.base import Distiller
from kdzoo.functional.relations import angle_difference, distances
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress
from kdzoo.registry import DISTILLERS


def rkd_distance_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Compute the mean Huber difference of distances, each network's over its own mean distance.

    The gradient can be taken once (no `create_graph`).

    Args:
        student_embedding: [N, D]; the gradient flows through the mean, too.
        teacher_embedding: [N, E]; the two sizes may differ; takes no gradient.

    Returns:
        A scalar, the mean over N x N entries, the zero diagonal included; 0 for one sample.

    Source: Park et al. 2019, RKD-D. Authors' code: zero distances between different samples are floored and
        counted in the mean; here: left out.
    """
    student, teacher = distances(student_embedding), distances(teacher_embedding.detach())
    return smooth_l1_loss(student, teacher).to(student_embedding.dtype)


def rkd_angle_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Compute the mean Huber difference of the cosines of the angles in all triplets.

    The N x N x N cosines never exist at once. The gradient can be taken once (no `create_graph`).

    Args:
        student_embedding: [N, D].
        teacher_embedding: [N, E]; the two sizes may differ; takes no gradient.

    Returns:
        A scalar, the mean over N x N x N entries, degenerate triplets included as 0.

    Source: Park et al. 2019, RKD-A.
    """
    student, teacher = distances(student_embedding), distances(teacher_embedding.detach())
    dtype = student_embedding.dtype
    return angle_difference(student, teacher, dtype=dtype).to(dtype)


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
    # 2: cosines from distances rather than from directions; the last digits are others.
    version = 2
    digest_scope = "batch"

    def __init__(self, *, distance_weight: NonNegative = 25.0, angle_weight: NonNegative = 50.0) -> None:
        super().__init__()
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def digest(self, teacher: ModelOutput) -> dict[str, Tensor]:
        """Keep the distances between the samples; the angles follow from them."""
        return {"distances": distances(teacher.embedding)}

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give both terms; one of weight 0 is not computed."""
        terms, dtype = {}, student.embedding.dtype
        own, teacher = distances(student.embedding), guide.teacher["distances"]
        if self.distance_weight:
            terms["distance"] = (self.distance_weight * smooth_l1_loss(own, teacher)).to(dtype)
        if self.angle_weight:
            terms["angle"] = (self.angle_weight * angle_difference(own, teacher, dtype=dtype)).to(dtype)
        return terms

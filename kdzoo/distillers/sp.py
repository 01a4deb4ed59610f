"""SP: find those images of a batch alike that the teacher finds alike.

Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation", ICCV, https://arxiv.org/abs/1907.09682
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdzoo.checks import NonNegative
from kdzoo.distillers.base import Distiller
from kdzoo.functional.products import column_products
from kdzoo.functional.stages import StagePair, stage_pair
from kdzoo.functional.vectors import unit
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting
from kdzoo.registry import DISTILLERS


def similarities(stage: Tensor) -> Tensor:
    """Compute how alike each sample of a batch is to all: their inner products, each row over its length.

    Args:
        stage: [N, C, H, W]; the row of a sample that is zero throughout is zero and takes no gradient.

    Returns:
        [N, N], rows of length 1 or 0; not symmetric, as each row is divided by its own length.

    Source: Tung and Mori 2019, section 3, the matrix G.
    """
    products = column_products(stage.flatten(1).T)
    # A row over its length does not depend on the row's scale; with 1 as its largest value no square leaves
    # float32.
    largest = products.detach().abs().amax(dim=1, keepdim=True)
    return unit(products / largest.masked_fill(largest == 0, 1.0))


def sp_loss(student_stage: Tensor, teacher_stage: Tensor) -> Tensor:
    """Compute the mean squared difference of the batch's similarities.

    Args:
        student_stage: [N, C, H, W].
        teacher_stage: [N, C, H, W]; other channels and another size are fine.

    Returns:
        A scalar, the mean over N x N entries, the diagonal included.

    Source: Tung and Mori 2019, section 3, the loss of one pair of layers.
    """
    return _distance(similarities(student_stage), similarities(teacher_stage))


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().mean()


@DISTILLERS.register("sp")
class SP(Distiller):
    """CE + weight x the mean squared difference of how alike the last stages find the samples of a batch.

    Paper: the sum over any pairs of layers; public benchmarks and here: the last stages.

    Args:
        weight: of the term. Default: the public CIFAR-100 benchmarks'.
    """

    needs = frozenset({"stages"})
    paper = (
        "Tung and Mori 2019, Similarity-Preserving Knowledge Distillation, ICCV, "
        "https://arxiv.org/abs/1907.09682"
    )
    year = 2019
    digest_scope = "batch"

    def __init__(self, pair: StagePair, *, weight: NonNegative = 3000.0) -> None:
        super().__init__()
        self.pairs = (pair,)
        self.weight = weight

    @classmethod
    def for_setting(cls, setting: Setting, **options: Any) -> Distiller:
        """Pair the last stages; each keeps its own size."""
        student, teacher = setting.student.stages, setting.teacher.stages
        last = stage_pair(student, len(student) - 1, teacher, len(teacher) - 1)
        return cls(last._replace(size=None), **options)

    def digest(self, teacher: ModelOutput) -> dict[str, Tensor]:
        """Keep how alike the teacher finds the samples."""
        (pair,) = self.pairs
        return {"similarities": similarities(teacher.stages[pair.teacher])}

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give the difference of similarities."""
        (pair,) = self.pairs
        own = similarities(student.stages[pair.student])
        return {"sp": self.weight * _distance(own, guide.teacher["similarities"])}

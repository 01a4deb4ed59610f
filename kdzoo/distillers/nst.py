"""NST: let the student's channels be active where the teacher's are, as one distribution beside another.

Huang and Wang 2017, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer",
https://arxiv.org/abs/1707.01219
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from kdzoo.checks import NonNegative
from kdzoo.distillers.base import Distiller
from kdzoo.functional.products import column_products
from kdzoo.functional.stages import StagePair, common_size, pair_stages, pool
from kdzoo.functional.vectors import unit
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting
from kdzoo.registry import DISTILLERS


def selectivity(stage: Tensor) -> Tensor:
    """Compute where each channel is active: its map as a vector of length 1.

    Args:
        stage: [N, C, H, W]; the map of a channel that is zero throughout is zero and takes no gradient.

    Returns:
        [N, C, H*W].
    """
    return unit(stage.flatten(2))


def kernel_mean(one: Tensor, other: Tensor) -> Tensor:
    """Compute the mean of (u . v)^2 over all pairs of a channel u of the one and a channel v of the other.

    The sum of squares has two forms: that of the products of channels, and, with the sums u u' over channels
    as matrices of positions, the inner product of two of these. What needs less memory is computed.

    Args:
        one: [N, C, P], vectors of C channels.
        other: [N, D, P]; a zero vector counts as one of the channels.

    Returns:
        [N].

    Source: Huang and Wang 2017, the polynomial kernel with d = 2 and c = 0.
    """
    channels, positions = one.shape[1] * other.shape[1], one.shape[2] ** 2
    if other is one:
        # Kernels round by where a matrix begins in memory. With zeros at the end, which are positions without
        # activity, odd sizes begin at even places, and a sample's bits do not depend on those before it.
        filled = pad(one, (0, -one.shape[2] % 8)) if one.shape[2] % 4 else one
        # A matrix and its transpose have products of the same squares.
        total = column_products(filled if positions < channels else filled.mT).square()
    elif 2 * positions < channels:
        total = column_products(one) * column_products(other)
    else:
        total = (one @ other.mT).square()
    return total.sum(dim=(1, 2)) / channels


def nst_loss(student_stages: Sequence[Tensor], teacher_stages: Sequence[Tensor]) -> Tensor:
    """Compute the squared maximum mean discrepancy of the channels' maps, summed over stages.

    Args:
        student_stages: [N, C, H, W] each.
        teacher_stages: [N, C, H, W] each, as many; other channels are fine, and of two sizes the larger map
            is pooled to the smaller.

    Returns:
        A scalar: K(t, t) + K(s, s) - 2 K(s, t) of each stage, the mean over N, added up.

    Source: Huang and Wang 2017, the squared MMD. Public benchmarks and here: all stages.
    """
    sizes = [common_size(s.shape, t.shape) for s, t in zip(student_stages, teacher_stages, strict=True)]

    def maps(stages: Sequence[Tensor]) -> list[Tensor]:
        return [selectivity(pool(stage, size)) for stage, size in zip(stages, sizes, strict=True)]

    teachers = maps(teacher_stages)
    return _discrepancy(maps(student_stages), teachers, [kernel_mean(t, t) for t in teachers])


def _discrepancy(students: Sequence[Tensor], teachers: Sequence[Tensor], own: Sequence[Tensor]) -> Tensor:
    """Compare maps; `own` is what the teacher's have in common with themselves."""
    together = zip(students, teachers, own, strict=True)
    return sum((k + kernel_mean(s, s) - 2 * kernel_mean(s, t)).mean() for s, t, k in together)  # type: ignore[return-value]


@DISTILLERS.register("nst")
class NST(Distiller):
    """CE + weight x the sum over stages of the squared maximum mean discrepancy of the channels' maps.

    Args:
        weight: of the term. Default: the public CIFAR-100 benchmarks'.
    """

    needs = frozenset({"stages"})
    paper = (
        "Huang and Wang 2017, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, "
        "https://arxiv.org/abs/1707.01219"
    )
    year = 2017

    def __init__(self, pairs: Sequence[StagePair], *, weight: NonNegative = 50.0) -> None:
        super().__init__()
        self.pairs = tuple(pairs)
        self.weight = weight

    @classmethod
    def for_setting(cls, setting: Setting, **options: Any) -> Distiller:
        """Pair the stages."""
        return cls(pair_stages(setting.student.stages, setting.teacher.stages), **options)

    def digest(self, teacher: ModelOutput) -> dict[str, Tensor]:
        """Keep the teacher's maps, and K(t, t), which is the same for all students."""
        kept: dict[str, Tensor] = {}
        for i, pair in enumerate(self.pairs):
            maps = selectivity(pool(teacher.stages[pair.teacher], pair.size))
            kept |= {f"maps.{i}": maps, f"own.{i}": kernel_mean(maps, maps)}
        return kept

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give the discrepancy of the channels' maps."""
        students = [selectivity(pool(student.stages[pair.student], pair.size)) for pair in self.pairs]
        teachers, own = ([guide.teacher[f"{n}.{i}"] for i in range(len(self.pairs))] for n in ("maps", "own"))
        return {"nst": self.weight * _discrepancy(students, teachers, own)}

"""KDSVD: keep how the leading singular vectors of one stage relate to those of the next.

Lee, Kim and Song 2018, "Self-supervised Knowledge Distillation Using Singular Value Decomposition", ECCV,
https://arxiv.org/abs/1807.06819
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from kdzoo.checks import Count, NonNegative, UsageError
from kdzoo.distillers.base import Distiller
from kdzoo.functional.singular_vectors import Leading, leading_vectors
from kdzoo.functional.stages import StagePair, common_size, pair_stages, pool
from kdzoo.functional.vectors import unit
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting
from kdzoo.registry import DISTILLERS

Layout = Literal["width", "channel"]
# The student offers this many more vectors than the teacher keeps, for the alignment.
MORE = 3


def as_matrices(stage: Tensor, layout: Layout) -> Tensor:
    """Flatten a stage to a matrix for each sample.

    Args:
        stage: [N, C, H, W].
        layout: where the right singular vectors lie: along the width, or along the channels.

    Returns:
        [N, C*H, W], or [N, H*W, C] for "channel".
    """
    return stage.flatten(1, 2) if layout == "width" else stage.flatten(2).mT


def signed(vectors: Tensor) -> Tensor:
    """Turn vectors so that the component of largest magnitude is positive.

    Args:
        vectors: [N, D, k]; the decomposition leaves their signs open, and the loss depends on them.

    Returns:
        [N, D, k].
    """
    peaks = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return vectors * torch.where(peaks < 0, -1.0, 1.0)


def aligned(student: Tensor, teacher: Tensor) -> Tensor:
    """Choose for each of the teacher's vectors the student's with the largest absolute cosine.

    Args:
        student: [N, D, s], candidates.
        teacher: [N, D, k].

    Returns:
        [N, D, k], with the sign of the teacher's.

    Source: Lee et al. 2018, the alignment.
    """
    cosines = teacher.mT @ student
    best = cosines.abs().argmax(dim=2)
    chosen = student.gather(2, best[:, None].expand(-1, student.shape[1], -1))
    return chosen * torch.where(cosines.gather(2, best[..., None]).mT < 0, -1.0, 1.0).detach()


def relation(earlier: Tensor, later: Tensor) -> Tensor:
    """Compute the correlations of two stages' vectors: exp(-(later - earlier)^2 / 8).

    Args:
        earlier: [N, Q, k].
        later: [N, P, k].

    Returns:
        [N, P, Q, k].

    Source: Lee et al. 2018, the radial basis function.
    """
    return torch.exp(-(later[:, :, None] - earlier[:, None]).square() / 8)


def kdsvd_loss(
    student_stages: Sequence[Tensor], teacher_stages: Sequence[Tensor], *, k: int, layout: Layout
) -> Tensor:
    """Compute the squared difference of how the singular vectors of successive stages correlate.

    Args:
        student_stages: [N, C, H, W] each, two or more.
        teacher_stages: [N, C, H, W] each, as many.
        k: singular vectors of each stage of the teacher; the student offers three more for alignment.
        layout: "width": vectors of length W, whatever the channels; of maps of two sizes the larger is pooled
            first. "channel": vectors of length C, which must agree, whatever the sizes.

    Returns:
        A scalar: the squared differences, summed over vectors' entries and pairs of stages, the mean over N.

    Source: Lee et al. 2018. "channel" is the layout of the authors' code, "width" that of later
        benchmarks. Authors' code: the signs that the decomposition happens to give; here: the teacher's
        largest component is positive.
    """
    together = list(zip(student_stages, teacher_stages, strict=True))
    if layout == "width":
        sizes = [common_size(s.shape, t.shape) for s, t in together]
        together = [(pool(s, size), pool(t, size)) for (s, t), size in zip(together, sizes, strict=True)]
    students = [leading_vectors(as_matrices(s, layout), k + MORE) for s, _ in together]
    teachers = [leading_vectors(as_matrices(t, layout), k) for _, t in together]
    return _difference([s.vectors for s in students], teachers)


def _difference(students: Sequence[Tensor], teachers: Sequence[Leading]) -> Tensor:
    found: list[tuple[Tensor, Tensor]] = []
    for student, teacher in zip(students, teachers, strict=True):
        guide = signed(teacher.vectors.detach())
        weights = unit(teacher.values.detach())[:, None]
        found.append((aligned(student, guide) * weights, guide * weights))
    total = found[0][0].new_zeros(())
    for (student_a, teacher_a), (student_b, teacher_b) in pairwise(found):
        difference = relation(student_a, student_b) - relation(teacher_a, teacher_b)
        total = total + difference.square().sum()
    return total / len(found[0][0])


@DISTILLERS.register("kdsvd")
class KDSVD(Distiller):
    """CE + weight x the squared difference of how the singular vectors of successive stages correlate.

    Args:
        weight: of the term. Default: the public CIFAR-100 benchmarks'.
        k: singular vectors of each stage. Default: those benchmarks'.
        layout: width takes vectors along the width of the maps, which runs on any pair of networks; channel
            takes them along the channels, which must agree. Default: the later benchmarks'.
    """

    needs = frozenset({"stages"})
    paper = (
        "Lee, Kim and Song 2018, Self-supervised Knowledge Distillation Using Singular Value Decomposition, "
        "ECCV, https://arxiv.org/abs/1807.06819"
    )
    year = 2018
    # 2: Gram matrices are scaled, no longer the stages; the last digits are others.
    version = 2
    digest_options = ("k", "layout")

    def __init__(
        self, pairs: Sequence[StagePair], *, weight: NonNegative = 1.0, k: Count = 1, layout: Layout = "width"
    ) -> None:
        super().__init__()
        self.pairs = tuple(pairs if layout == "width" else (p._replace(size=None) for p in pairs))
        self.weight = weight
        self.k = k
        self.layout: Layout = layout

    @classmethod
    def for_setting(cls, setting: Setting, **options: Any) -> Distiller:
        """Pair the stages; refuse a single stage, too many vectors, and unequal channels as "channel"."""
        pairs = pair_stages(setting.student.stages, setting.teacher.stages)
        if len(pairs) < 2:
            raise UsageError(
                "kdsvd: the student must have two stages or more, got one. Choose a deeper student."
            )
        distiller = cls(pairs, **options)
        unequal = [
            f"{p.student_shape[0]} for {p.teacher_shape[0]}"
            for p in pairs
            if p.student_shape[0] != p.teacher_shape[0]
        ]
        if distiller.layout == "channel" and unequal:
            raise UsageError(
                f"kdsvd: layout=channel needs equal channels in paired stages, got {', '.join(unequal)}. "
                "Use layout=width, or another pair of networks."
            )
        stages = [pool(torch.empty(1, *p.teacher_shape), p.size) for p in distiller.pairs]
        fewest = min(min(as_matrices(s, distiller.layout).shape[1:]) for s in stages)
        if distiller.k > fewest:
            raise UsageError(
                f"kdsvd: k must be at most {fewest}, all singular vectors of the teacher's narrowest stage, "
                f"got {distiller.k}. Set kdsvd:k={fewest}."
            )
        return distiller

    def digest(self, teacher: ModelOutput) -> dict[str, Tensor]:
        """Keep the leading singular vectors and values of each stage."""
        kept: dict[str, Tensor] = {}
        for i, pair in enumerate(self.pairs):
            stage = pool(teacher.stages[pair.teacher], pair.size)
            vectors, values = leading_vectors(as_matrices(stage, self.layout), self.k)
            kept |= {f"vectors.{i}": vectors, f"values.{i}": values}
        return kept

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give the difference of the correlations."""
        stages = [pool(student.stages[pair.student], pair.size) for pair in self.pairs]
        students = [leading_vectors(as_matrices(s, self.layout), self.k + MORE).vectors for s in stages]
        kept = guide.teacher
        teachers = [Leading(kept[f"vectors.{i}"], kept[f"values.{i}"]) for i in range(len(self.pairs))]
        return {"kdsvd": self.weight * _difference(students, teachers)}

"""Which stages of two networks learn from each other, and at which size they meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, ...]
Size = tuple[int, int]


class StagePair(NamedTuple):
    """A stage of the student and the stage of the teacher that guides it.

    Attributes:
        student: position among the student's stages, from 0.
        teacher: position among the teacher's stages, from 0.
        student_shape: (C, H, W) of the student's stage.
        teacher_shape: (C, H, W) of the teacher's stage.
        size: (height, width) to which both are pooled; None where each keeps its own.
    """

    student: int
    teacher: int
    student_shape: Shape
    teacher_shape: Shape
    size: Size | None

    def described(self) -> dict[str, Any]:
        """Give the pair as records keep it; stages count from 1, as in the papers."""
        return {
            "student_stage": self.student + 1,
            "student_shape": list(self.student_shape),
            "teacher_stage": self.teacher + 1,
            "teacher_shape": list(self.teacher_shape),
            "pooled_to": None if self.size is None else list(self.size),
        }


def pair_stages(student: Sequence[Shape], teacher: Sequence[Shape]) -> tuple[StagePair, ...]:
    """Pair every stage of the student: stage i of n with the teacher's stage ceil(i m / n) of m.

    So the last stages meet, networks of one depth pair stage by stage, and a student of two stages meets the
    teacher's second and fourth of four.

    Args:
        student: (C, H, W) of the student's stages, fine to coarse.
        teacher: (C, H, W) of the teacher's stages.

    Returns:
        One pair for each stage of the student.
    """
    n, m = len(student), len(teacher)
    return tuple(stage_pair(student, i, teacher, -(-(i + 1) * m // n) - 1) for i in range(n))


def stage_pair(student: Sequence[Shape], i: int, teacher: Sequence[Shape], j: int) -> StagePair:
    """Pair two stages by their positions.

    Args:
        student: (C, H, W) of the student's stages.
        i: position of the student's stage, from 0.
        teacher: (C, H, W) of the teacher's stages.
        j: position of the teacher's stage, from 0.
    """
    return StagePair(i, j, tuple(student[i]), tuple(teacher[j]), common_size(student[i], teacher[j]))


def common_size(student: Sequence[int], teacher: Sequence[int]) -> Size:
    """Give the smaller height and the smaller width of two maps, in pixels.

    Args:
        student: (..., H, W).
        teacher: (..., H, W).
    """
    return min(student[-2], teacher[-2]), min(student[-1], teacher[-1])


def pool(stage: Tensor, size: Size | None) -> Tensor:
    """Average a map down to a size, as adaptive average pooling does.

    It is two small matrix products, whose backward pass is deterministic on CUDA;
    `torch.nn.functional.adaptive_avg_pool2d` has no such backward pass there.

    Args:
        stage: [N, C, H, W].
        size: (height, width) of the result, at most the stage's own; None leaves the stage as it is.

    Returns:
        [N, C, height, width].
    """
    if size is None or stage.shape[-2:] == size:
        return stage
    rows = _averages(stage.shape[-2], size[0], stage)
    columns = _averages(stage.shape[-1], size[1], stage)
    return rows @ (stage @ columns.T)


def _averages(full: int, size: int, like: Tensor) -> Tensor:
    """Give the matrix [size, full] that averages bins of a line; bins overlap where sizes do not divide."""
    bins = torch.arange(size, device=like.device)
    starts = bins * full // size
    stops = ((bins + 1) * full + size - 1) // size
    pixels = torch.arange(full, device=like.device)
    inside = (pixels >= starts[:, None]) & (pixels < stops[:, None])
    return inside.to(like.dtype) / (stops - starts)[:, None]

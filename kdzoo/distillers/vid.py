"""VID: the student's stages predict the teacher's, and each channel says how sure the prediction is.

Ahn, Hu, Damianou, Lawrence and Dai 2019, "Variational Information Distillation for Knowledge Transfer", CVPR,
https://arxiv.org/abs/1904.05835
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdzoo.checks import NonNegative, Positive, usage
from kdzoo.distillers.base import Distiller
from kdzoo.functional.stages import StagePair, pair_stages, pool
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting
from kdzoo.registry import DISTILLERS


def vid_loss(predicted: Tensor, variance: Tensor, teacher_stage: Tensor) -> Tensor:
    """Compute the negative log-likelihood of the teacher's stage under Gaussians around a prediction.

    Args:
        predicted: [N, C, H, W], the means.
        variance: [C], above 0, one for each channel.
        teacher_stage: [N, C, H, W].

    Returns:
        A scalar in nats, the mean over all elements; negative where predictions are sure and right.

    Source: Ahn et al. 2019, the variational bound. Paper: the sum over elements; public code and
        here: the mean, without the constant log(2 pi) / 2.
    """
    # One variance serves a whole channel: what is divided and weighed is C numbers, not N x C x H x W.
    errors = (predicted - teacher_stage).square().mean(dim=(0, 2, 3))
    return (errors / variance + variance.log()).mean() / 2


class Prediction(nn.Module):
    """What a stage of the student says about the teacher's: a mean for each element, a variance per channel.

    Public code and here: the mean is made by three 1x1 convolutions, as wide within as the teacher's stage,
    with neither bias nor batch norm.

    Args:
        pair: the two stages.
        initial_variance: of every channel, above eps.
        eps: the least variance.
    """

    def __init__(self, pair: StagePair, initial_variance: float, eps: float) -> None:
        super().__init__()
        own, channels = pair.student_shape[0], pair.teacher_shape[0]
        self.mean = nn.Sequential(
            nn.Conv2d(own, channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1, bias=False),
        )
        # softplus of log(e^v - 1) is v; written so that no v overflows.
        above = initial_variance - eps
        self.raw_variance = nn.Parameter(torch.full((channels,), above + math.log(-math.expm1(-above))))
        self.eps = eps

    def forward(self, stage: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the teacher's stage.

        Args:
            stage: [N, C, H, W], the student's, at the size at which both meet.

        Returns:
            The means [N, C, H, W] and the channels' variances [C].
        """
        return self.mean(stage), nn.functional.softplus(self.raw_variance) + self.eps


@DISTILLERS.register("vid")
class VID(Distiller):
    """CE + weight x the sum over stages of the negative log-likelihood of the teacher's stage, predicted from
    the student's.

    Args:
        weight: of the term. Default: the public CIFAR-100 benchmarks'.
        initial_variance: of every channel when training starts. Default: those benchmarks', after the
            authors' code.
        eps: the least variance of a channel. Default: those benchmarks', after the authors' code.
    """

    needs = frozenset({"stages"})
    paper = (
        "Ahn, Hu, Damianou, Lawrence and Dai 2019, Variational Information Distillation for Knowledge "
        "Transfer, CVPR, https://arxiv.org/abs/1904.05835"
    )
    year = 2019

    def __init__(
        self, pairs: Sequence[StagePair], *, weight: NonNegative = 1.0, initial_variance: Positive = 5.0,
        eps: Positive = 1e-5,
    ) -> None:  # fmt: skip
        super().__init__()
        if initial_variance <= eps:
            raise usage("vid", "initial_variance", f"above eps, {eps:g}", initial_variance)
        self.pairs = tuple(pairs)
        self.weight = weight
        self.predictions = nn.ModuleList(Prediction(pair, initial_variance, eps) for pair in self.pairs)

    @classmethod
    def for_setting(cls, setting: Setting, **options: Any) -> Distiller:
        """Pair the stages."""
        return cls(pair_stages(setting.student.stages, setting.teacher.stages), **options)

    def digest(self, teacher: ModelOutput) -> dict[str, Tensor]:
        """Keep the teacher's stages at the size at which they are predicted, one for each pair."""
        return {f"stage.{i}": pool(teacher.stages[p.teacher], p.size) for i, p in enumerate(self.pairs)}

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give how unlikely the teacher's stages are."""
        total = student.stages[0].new_zeros(())
        for i, (pair, prediction) in enumerate(zip(self.pairs, self.predictions, strict=True)):
            predicted, variance = prediction(pool(student.stages[pair.student], pair.size))
            total = total + vid_loss(predicted, variance, guide.teacher[f"stage.{i}"])
        return {"vid": self.weight * total}

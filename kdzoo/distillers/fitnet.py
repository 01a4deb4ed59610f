"""FitNet: a stage in the middle of the student learns to predict a stage in the middle of the teacher.

Romero, Ballas, Kahou, Chassang, Gatta and Bengio 2015, "FitNets: Hints for Thin Deep Nets", ICLR,
https://arxiv.org/abs/1412.6550
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kdzoo.checks import Count, NonNegative, UsageError, checked, options_of
from kdzoo.distillers.base import Distiller
from kdzoo.functional.stages import StagePair, pair_stages, pool, stage_pair
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting
from kdzoo.registry import DISTILLERS


def fitnet_loss(student_hint: Tensor, teacher_hint: Tensor) -> Tensor:
    """Compute the mean squared difference between the teacher's hint and what the student makes of it.

    Args:
        student_hint: [N, C, H, W], behind the regressor.
        teacher_hint: [N, C, H, W].

    Returns:
        A scalar, the mean over all elements.

    Source: Romero et al. 2015, eq. 3. Paper: half of the sum of squares; public code and here: the mean.
    """
    return nn.functional.mse_loss(student_hint, teacher_hint)


@DISTILLERS.register("fitnet")
class FitNet(Distiller):
    """CE + weight x the mean squared difference between the teacher's hint stage and a 1x1 regressor of the
    student's.

    Args:
        weight: of the term. Default: the public CIFAR-100 benchmarks'.
        hint: which of the teacher's stages is the hint, from 1. Default: those benchmarks', the second.
        two_stage: train for the hint alone in the first half of the epochs, and for the labels alone after
            it. Paper: hint first, then KD; public benchmarks: both terms at once, which is the default.
    """

    needs = frozenset({"stages"})
    paper = "Romero, Ballas, Kahou, Chassang, Gatta and Bengio 2015, FitNets, ICLR, https://arxiv.org/abs/1412.6550"
    year = 2015
    digest_options = ("hint",)

    def __init__(
        self, pair: StagePair, *, weight: NonNegative = 100.0, hint: Count = 2, two_stage: bool = False
    ) -> None:
        super().__init__()
        self.pairs = (pair,)
        self.weight = weight
        self.two_stage = two_stage
        # Without a bias, which the batch norm would take away again.
        self.regressor = nn.Sequential(
            nn.Conv2d(pair.student_shape[0], pair.teacher_shape[0], 1, bias=False),
            nn.BatchNorm2d(pair.teacher_shape[0]),
            nn.ReLU(),
        )

    @classmethod
    def for_setting(cls, setting: Setting, **options: Any) -> Distiller:
        """Find the stage of the student that is paired with the hint, or the next one that is."""
        stages, hint = len(setting.teacher.stages), checked("fitnet", options_of(cls), options)["hint"]
        if hint > stages:
            raise UsageError(
                f"fitnet: hint must be one of the teacher's stages, 1 to {stages}, got {hint}. "
                f"Set fitnet:hint={stages}, or choose a teacher with more stages."
            )
        student, teacher = setting.student.stages, setting.teacher.stages
        guided = next(p for p in pair_stages(student, teacher) if p.teacher >= hint - 1)
        return cls(stage_pair(student, guided.student, teacher, hint - 1), **options)

    def label_weight(self, progress: Progress) -> float:
        """Leave the labels out while the hint is learnt alone."""
        return 0.0 if self._first_stage(progress) else 1.0

    def digest(self, teacher: ModelOutput) -> dict[str, Tensor]:
        """Keep the hint."""
        (pair,) = self.pairs
        return {"hint": pool(teacher.stages[pair.teacher], pair.size)}

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give the regressor's distance from the hint."""
        if self.two_stage and not self._first_stage(progress):
            return {}
        (pair,) = self.pairs
        predicted = self.regressor(pool(student.stages[pair.student], pair.size))
        return {"fitnet": self.weight * fitnet_loss(predicted, guide.teacher["hint"])}

    def _first_stage(self, progress: Progress) -> bool:
        return self.two_stage and progress.epoch < progress.epochs // 2

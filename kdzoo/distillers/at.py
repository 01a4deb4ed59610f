"""AT: look where the teacher looks, stage by stage.

Zagoruyko and Komodakis 2017, "Paying More Attention to Attention: Improving the Performance of Convolutional
Neural Networks via Attention Transfer", ICLR, https://arxiv.org/abs/1612.03928
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from torch import Tensor

from kdzoo.checks import Interval, NonNegative
from kdzoo.distillers.base import Distiller
from kdzoo.functional.stages import StagePair, common_size, pair_stages, pool
from kdzoo.functional.vectors import unit
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting
from kdzoo.registry import DISTILLERS


def attention_map(stage: Tensor, *, p: float) -> Tensor:
    """Compute where a stage looks: the mean over channels of |f|^p.

    Args:
        stage: [N, C, H, W]; the map of a stage that is zero throughout is zero.
        p: the power; larger ones look at the peaks.

    Returns:
        [N, H*W], of unit length or zero.

    Source: Zagoruyko and Komodakis 2017, section 3.1; mean and sum over channels agree once normalised.
    """
    # A map does not depend on the stage's scale.
    if p == 2:
        # Of the usual power it is enough to scale the map, which is smaller: up to 1e18 no square leaves
        # float32.
        found = stage.square().mean(dim=1).flatten(1)
        return unit(found / _largest(found, 1))
    # With 1 as the largest value no power leaves float32.
    return unit((stage / _largest(stage, (1, 2, 3))).abs().pow(p).mean(dim=1).flatten(1))


def _largest(values: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Give each sample's largest magnitude, or 1 where all is 0; a constant for the gradient."""
    found = values.detach().abs().amax(dim=dim, keepdim=True)
    return found.masked_fill(found == 0, 1.0)


def at_loss(student_stages: Sequence[Tensor], teacher_stages: Sequence[Tensor], *, p: float) -> Tensor:
    """Compute the sum over stages of the mean squared difference of attention maps.

    Args:
        student_stages: [N, C, H, W] each.
        teacher_stages: [N, C, H, W] each, as many; other channels are fine, and of two sizes the larger map
            is pooled to the smaller before the power.
        p: the power of the maps, at least 1.

    Returns:
        A scalar, the mean over N and H*W of each stage's squared differences, added up.

    Source: Zagoruyko and Komodakis 2017, eq. 2. Paper: the norm of the difference, unsquared, times beta / 2;
        authors' code and here: the mean squared difference.
    """
    sizes = [common_size(s.shape, t.shape) for s, t in zip(student_stages, teacher_stages, strict=True)]

    def maps(stages: Sequence[Tensor]) -> list[Tensor]:
        return [attention_map(pool(stage, size), p=p) for stage, size in zip(stages, sizes, strict=True)]

    return _distance(maps(student_stages), maps(teacher_stages))


def _distance(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    pairs = zip(student_maps, teacher_maps, strict=True)
    return sum((s - t).square().mean() for s, t in pairs)  # type: ignore[return-value]


@DISTILLERS.register("at")
class AT(Distiller):
    """CE + weight x the sum over stages of the mean squared difference of attention maps.

    Args:
        weight: of the term. Default: the public CIFAR-100 benchmarks'.
        p: the power of the maps. Default: the paper's.
    """

    needs = frozenset({"stages"})
    paper = (
        "Zagoruyko and Komodakis 2017, Paying More Attention to Attention, ICLR, "
        "https://arxiv.org/abs/1612.03928"
    )
    year = 2017
    # 2: at p = 2 the maps are scaled, no longer the stages; the last digits are others.
    version = 2
    digest_options = ("p",)

    def __init__(
        self,
        pairs: Sequence[StagePair],
        *,
        weight: NonNegative = 1000.0,
        p: Annotated[float, Interval(low=1)] = 2.0,
    ) -> None:
        super().__init__()
        self.pairs = tuple(pairs)
        self.weight = weight
        self.p = p

    @classmethod
    def for_setting(cls, setting: Setting, **options: Any) -> Distiller:
        """Pair the stages."""
        return cls(pair_stages(setting.student.stages, setting.teacher.stages), **options)

    def digest(self, teacher: ModelOutput) -> dict[str, Tensor]:
        """Keep the teacher's maps, one for each pair."""
        return {f"map.{i}": self._map(teacher, pair.teacher, pair) for i, pair in enumerate(self.pairs)}

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give the distance between the maps."""
        student_maps = [self._map(student, pair.student, pair) for pair in self.pairs]
        teacher_maps = [guide.teacher[f"map.{i}"] for i in range(len(self.pairs))]
        return {"at": self.weight * _distance(student_maps, teacher_maps)}

    def _map(self, output: ModelOutput, stage: int, pair: StagePair) -> Tensor:
        return attention_map(pool(output.stages[stage], pair.size), p=self.p)

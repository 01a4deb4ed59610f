"""OFD: stages before their ReLU, of which only what carries information of the teacher's must be matched.

Heo, Kim, Yun, Park, Kwak and Choi 2019, "A Comprehensive Overhaul of Feature Distillation", ICCV,
https://arxiv.org/abs/1904.01866
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdzoo.checks import NonNegative, UsageError
from kdzoo.distillers.base import Distiller
from kdzoo.functional.normalisation import BatchNorm
from kdzoo.functional.stages import StagePair, pair_stages, pool
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting
from kdzoo.registry import DISTILLERS

# A channel that is negative more rarely has no mean of negative values worth the name. Authors' code.
RAREST = 1e-3


def ofd_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Compute the partial squared distance: where the teacher's response is not positive, a student whose
    response is lower still is left alone.

    Args:
        student_map: [N, C, H, W], behind the connector.
        teacher_map: [N, C, H, W], behind the margin ReLU.

    Returns:
        A scalar, the mean over samples of the sum over channels and pixels.

    Source: Heo et al. 2019, the partial L2 distance. Paper: the sum over all; authors' code and here: over
        the number of samples.
    """
    # In this form a student that is no number counts, too, so that its member sees it.
    left_alone = (student_map <= teacher_map) & (teacher_map <= 0)
    # A choice, not a product: what is left alone has a gradient of zero even where the square overflows.
    distances = torch.where(left_alone, 0, student_map - teacher_map)
    return distances.square().sum(dim=(1, 2, 3)).mean()


def margin_relu(preactivation: Tensor, margins: Tensor) -> Tensor:
    """Cut negative responses off at a channel's margin.

    Args:
        preactivation: [N, C, H, W].
        margins: [C], negative.

    Returns:
        [N, C, H, W].

    Source: Heo et al. 2019, the margin ReLU.
    """
    return torch.maximum(preactivation, margins[:, None, None].to(preactivation.dtype))


def margins_of(scale: Tensor, shift: Tensor) -> Tensor:
    """Give the mean of the negative values of each channel that a batch norm gives, as if they were normal.

    Args:
        scale: [C], the batch norm's weight; its sign does not matter.
        shift: [C], its bias.

    Returns:
        [C] float32; three deviations below zero for a channel of which less than a thousandth is negative.

    Source: Heo et al. 2019, margins from the parameters of the batch norm before the ReLU; the rule for
        channels that are hardly ever negative: authors' code.
    """
    deviation, mean = scale.double().abs(), shift.double()
    standard = -mean / deviation.clamp_min(torch.finfo(torch.float64).tiny)
    share = torch.special.ndtr(standard)
    density = torch.exp(-standard.square() / 2) / math.sqrt(2 * math.pi)
    negative = mean - deviation * density / share.clamp_min(RAREST)
    return torch.where(share > RAREST, negative, -3 * deviation).float()


class Connector(nn.Sequential):
    """A 1x1 convolution and a batch norm, from a student's channels to a teacher's.

    Args:
        inputs: channels of the student's stage.
        outputs: channels of the teacher's.

    Source: Heo et al. 2019, the student's transform; initial weights: authors' code.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(convolution, BatchNorm(outputs))


@DISTILLERS.register("ofd")
class OFD(Distiller):
    """CE + weight x the partial distances of the stages before their ReLU, halved with each stage from the
    last up.

    Margins come from the batch norm at the end of each of the teacher's stages; of residual networks it is
    that of the last block's main branch, as in the authors' code.

    Args:
        weight: of the term. Default: the public benchmarks' code, 0.001, as the authors' divides by 1000.
    """

    needs = frozenset({"preactivations"})
    paper = (
        "Heo, Kim, Yun, Park, Kwak and Choi 2019, A Comprehensive Overhaul of Feature Distillation, ICCV, "
        "https://arxiv.org/abs/1904.01866"
    )
    year = 2019

    def __init__(
        self, pairs: Sequence[StagePair], margins: Sequence[Tensor], *, weight: NonNegative = 1e-3
    ) -> None:
        super().__init__()
        self.pairs = tuple(pairs)
        self.weight = weight
        self.connectors = nn.ModuleList(Connector(p.student_shape[0], p.teacher_shape[0]) for p in pairs)
        # They follow from the teacher's weights, so that no checkpoint need have them.
        for i, margin in enumerate(margins):
            self.register_buffer(f"margins_{i}", margin, persistent=False)

    @classmethod
    def for_setting(cls, setting: Setting, **options: Any) -> Distiller:
        """Pair the stages, and read the margins off the teacher's batch norms."""
        channels = [len(shift) for _, shift in setting.teacher_norms or ()]
        if channels != [stage[0] for stage in setting.teacher.preactivations]:
            raise UsageError(
                "ofd: the teacher must have a batch norm at the end of each stage, which this one does not "
                "tell. Choose a ResNet, a WRN, a VGG or a ShuffleNet V1 of `kdzoo list models`, or another "
                "method."
            )
        pairs = pair_stages(setting.student.preactivations, setting.teacher.preactivations)
        margins = [margins_of(*norms) for norms in setting.teacher_norms or ()]
        return cls(pairs, [margins[pair.teacher] for pair in pairs], **options)

    def digest(self, teacher: ModelOutput) -> dict[str, Tensor]:
        """Keep the paired stages behind the margin ReLU, at the size at which they are compared."""
        return {f"map.{i}": self._target(teacher, i, pair) for i, pair in enumerate(self.pairs)}

    def _target(self, teacher: ModelOutput, i: int, pair: StagePair) -> Tensor:
        pooled = pool(teacher.preactivations[pair.teacher], pair.size)
        return margin_relu(pooled, self.get_buffer(f"margins_{i}"))

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give the distance of what the connectors make of the student's stages."""
        terms = []
        for i, pair in enumerate(self.pairs):
            made = self.connectors[i](pool(student.preactivations[pair.student], pair.size))
            share = 2.0 ** (i + 1 - len(self.pairs))
            terms.append(share * ofd_loss(made, guide.teacher[f"map.{i}"]))
        return {"ofd": self.weight * torch.stack(terms).sum()}

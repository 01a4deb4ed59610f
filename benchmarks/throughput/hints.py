"""What losses on stages need in anyone's loop: which stages meet, at which size, and FitNet's regressor."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from kdzoo.functional.stages import StagePair, pair_stages
from kdzoo.models import output_shapes

from .pair import Pair


def stage_pairs(pair: Pair) -> tuple[StagePair, ...]:
    """Pair the stages of both networks as kdzoo does.

    Args:
        pair: networks and data.
    """
    size = pair.settings.views.output_size(pair.data.size)
    networks = (pair.student(), pair.teacher())
    return pair_stages(*(output_shapes(network, pair.data.channels, size).stages for network in networks))


def hint_of(pairs: Sequence[StagePair]) -> StagePair:
    """Give the pair of FitNet: the teacher's second stage.

    Args:
        pairs: of all stages.
    """
    return next(p for p in pairs if p.teacher >= 1)


def regressor_of(hint: StagePair) -> nn.Module:
    """Make a 1x1 convolution from the student's channels to the teacher's, as kdzoo's FitNet has it.

    Args:
        hint: FitNet's pair.
    """
    channels = hint.student_shape[0], hint.teacher_shape[0]
    return nn.Sequential(nn.Conv2d(*channels, 1, bias=False), nn.BatchNorm2d(channels[1]), nn.ReLU())


def pooled(stage: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Pool a map to a size, if it has another.

    Args:
        stage: [N, C, H, W].
        size: height and width in pixels; None leaves it.
    """
    return stage if size is None or stage.shape[-2:] == size else adaptive_avg_pool2d(stage, size)

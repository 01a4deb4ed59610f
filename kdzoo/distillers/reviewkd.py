"""ReviewKD: what a stage of the student teaches itself together with all that lie deeper.

Chen, Liu, Zhao and Jia 2021, "Distilling Knowledge via Knowledge Review", CVPR,
https://arxiv.org/abs/2104.09044
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from kdzoo.checks import Natural, NonNegative
from kdzoo.distillers.base import Distiller
from kdzoo.functional.normalisation import BatchNorm
from kdzoo.functional.stages import Size, StagePair, pair_stages, pool
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, Setting
from kdzoo.registry import DISTILLERS

# Sides of the pooled maps that are compared beside the whole ones. Authors' code.
SIDES = (4, 2, 1)
# Of the channels in which stages are fused. Authors' code.
MOST_CHANNELS = 512


def reviewkd_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Compute the hierarchical context loss, summed over levels.

    Args:
        student_maps: [N, C, H, W] each, behind the fusions.
        teacher_maps: [N, C, H, W] each, of the same shapes.

    Returns:
        A scalar.

    Source: Chen et al. 2021, the hierarchical context loss.
    """
    levels = [context_loss(s, t) for s, t in zip(student_maps, teacher_maps, strict=True)]
    return torch.stack(levels).sum()


def context_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Compare two maps whole and pooled to ever fewer pixels, the latter with ever smaller weights.

    Args:
        student_map: [N, C, H, W].
        teacher_map: [N, C, H, W].

    Returns:
        A scalar: the mean squared differences at H x W and at those of 4 x 4, 2 x 2 and 1 x 1 that are
        smaller, with weights 1, 1/2, 1/4, 1/8 in this order, over the sum of the weights.

    Source: Chen et al. 2021, the hierarchical context loss; sizes and weights: authors' code. Of maps that
        are not square the smaller side decides; the authors' code has square ones alone.
    """
    total, weight, weights = mse_loss(student_map, teacher_map), 1.0, 1.0
    for side in SIDES:
        if side < min(student_map.shape[-2:]):
            weight /= 2
            weights += weight
            size = (side, side)
            total = total + weight * mse_loss(pool(student_map, size), pool(teacher_map, size))
    return total / weights


def nearest(stage: Tensor, size: Size) -> Tensor:
    """Resize a map by taking for each pixel the nearest, up or down.

    It is two matrix products, whose backward pass is deterministic on CUDA; that of
    `torch.nn.functional.interpolate` is not.

    Args:
        stage: [N, C, H, W].
        size: (height, width) of the result.

    Returns:
        [N, C, height, width].
    """
    if stage.shape[-2:] == size:
        return stage
    rows, columns = (_taken(full, new, stage) for full, new in zip(stage.shape[-2:], size, strict=True))
    return rows @ (stage @ columns.T)


def _taken(full: int, size: int, like: Tensor) -> Tensor:
    """Give the matrix [size, full] of the pixel of a line that each new one takes."""
    sources = torch.arange(size, device=like.device) * full // size
    return (sources[:, None] == torch.arange(full, device=like.device)).to(like.dtype)


class Fusion(nn.Module):
    """Attention based fusion: a stage and what the fusion below it passed up, weighed pixel by pixel.

    Args:
        inputs: channels of the student's stage.
        between: channels in which stages are fused.
        outputs: channels of the teacher's stage.
        fuses: whether there is a fusion below.

    Source: Chen et al. 2021, the attention based fusion; convolutions, batch norms and initial weights:
        authors' code.
    """

    def __init__(self, inputs: int, between: int, outputs: int, *, fuses: bool) -> None:
        super().__init__()
        small = nn.Conv2d(inputs, between, 1, bias=False)
        large = nn.Conv2d(between, outputs, 3, padding=1, bias=False)
        for layer in (small, large):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        self.reduce = nn.Sequential(small, BatchNorm(between))
        self.expand = nn.Sequential(large, BatchNorm(outputs))
        self.attention = nn.Conv2d(2 * between, 2, 1) if fuses else None

    def forward(self, stage: Tensor, passed: Tensor | None, size: Size) -> tuple[Tensor, Tensor]:
        """Give what the teacher's stage is compared with, and what is passed up, both of the given size."""
        own = self.reduce(stage)
        if self.attention is not None and passed is not None:
            passed = nearest(passed, (own.shape[-2], own.shape[-1]))
            shares = self.attention(torch.cat([own, passed], dim=1)).sigmoid()
            own = own * shares[:, :1] + passed * shares[:, 1:]
        own = nearest(own, size)
        return self.expand(own), own


@DISTILLERS.register("reviewkd")
class ReviewKD(Distiller):
    """CE + warm-up x weight x the hierarchical context loss of the student's stages, each fused with all
    deeper ones.

    The embedding is the deepest stage, of one pixel, as in the authors' code. Authors' code: the teacher's
    stages before their last ReLU; here: after it, like the student's, as networks from elsewhere show no
    others.

    Args:
        weight: of the term. Default: that of the public benchmarks' code and of the authors'; their scripts
            set 0.6 to 8 by pair of networks.
        warmup: epochs over which the term's weight rises as min((epoch + 1) / warmup, 1); 0 is none.
            Default: the public benchmarks, 20 of 240, which count epochs from 1 (the authors' code from 0);
            benchmarks of other lengths than 200 and 240 epochs take a tenth of theirs.
    """

    needs = frozenset({"stages", "embedding"})
    paper = (
        "Chen, Liu, Zhao and Jia 2021, Distilling Knowledge via Knowledge Review, CVPR, "
        "https://arxiv.org/abs/2104.09044"
    )
    year = 2021

    def __init__(
        self,
        pairs: Sequence[StagePair],
        student_width: int,
        teacher_width: int,
        *,
        weight: NonNegative = 1.0,
        warmup: Natural = 20,
    ) -> None:
        super().__init__()
        # Of two sizes the student's map takes the teacher's.
        self.pairs = tuple(pair._replace(size=None) for pair in pairs)
        self.weight = weight
        self.warmup = warmup
        between = min(MOST_CHANNELS, student_width)
        self.deepest = Fusion(student_width, between, teacher_width, fuses=False)
        self.fusions = nn.ModuleList(
            Fusion(p.student_shape[0], between, p.teacher_shape[0], fuses=True) for p in self.pairs
        )

    @classmethod
    def for_setting(cls, setting: Setting, **options: Any) -> Distiller:
        """Pair the stages, and size the fusions."""
        pairs = pair_stages(setting.student.stages, setting.teacher.stages)
        return cls(pairs, setting.student.embedding[0], setting.teacher.embedding[0], **options)

    @classmethod
    def scaled_options(cls, epochs: int) -> dict[str, Any]:
        """Keep the warm-up's share of training."""
        return {"warmup": 20 if epochs in (200, 240) else max(1, epochs // 10)}

    def digest(self, teacher: ModelOutput) -> dict[str, Tensor]:
        """Keep the paired stages and the embedding."""
        stages = {f"map.{i}": teacher.stages[pair.teacher] for i, pair in enumerate(self.pairs)}
        return {**stages, "embedding": teacher.embedding}

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Give the distance of the fused stages from the teacher's, from the deepest to the finest."""
        fused, passed = self.deepest(student.embedding[:, :, None, None], None, (1, 1))
        found, wanted = [fused], [guide.teacher["embedding"][:, :, None, None]]
        for i in reversed(range(len(self.pairs))):
            pair = self.pairs[i]
            height, width = pair.teacher_shape[-2:]
            fused, passed = self.fusions[i](student.stages[pair.student], passed, (height, width))
            found.append(fused)
            wanted.append(guide.teacher[f"map.{i}"])
        weight = min((progress.epoch + 1) / self.warmup, 1.0) if self.warmup else 1.0
        return {"reviewkd": self.weight * weight * reviewkd_loss(found, wanted)}

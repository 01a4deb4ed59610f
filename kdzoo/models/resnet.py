"""ResNets of four stages for small images: 3x3 stem, no max-pool, widths 64-128-256-512.

Sources: He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition", CVPR,
https://arxiv.org/abs/1512.03385, table 1; for small images as in the notebooks of Doshi and Kim 2024,
https://arxiv.org/abs/2404.09886. He et al.: a bottleneck's first 1x1 convolution has the stride; notebooks:
its 3x3 convolution has; here: as the notebooks. Initial weights are torch's own (`kaiming_uniform_` with
a = sqrt(5)), which the notebooks leave as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

from torch import Tensor, nn
from torch.nn import functional

from kdzoo.checks import usage
from kdzoo.models.base import check_input
from kdzoo.models.layers import RESIDUAL_SPELLINGS, Stage, Staged, Stages, conv_norm
from kdzoo.outputs import ModelOutput
from kdzoo.registry import MODELS

Head = Literal["auto", "global", "pool4"]


class Residual(nn.Module):
    """A residual block up to its sum; the stage that holds it applies the last ReLU.

    Args:
        main: the layers beside the shortcut.
        inputs: channels of its input.
        outputs: channels of its output.
        stride: of the whole block. The shortcut is a 1x1 convolution with batch norm where the shape changes.
    """

    def __init__(self, main: nn.Sequential, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.main = main
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(*conv_norm(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, outputs, H / stride, W / stride], before the ReLU."""
        return cast(Tensor, self.main(x) + self.shortcut(x))


def basic_block(inputs: int, width: int, stride: int) -> Residual:
    """Build two 3x3 convolutions with a shortcut."""
    main = [*conv_norm(inputs, width, 3, stride), nn.ReLU(inplace=True), *conv_norm(width, width, 3)]
    return Residual(nn.Sequential(*main), inputs, width, stride)


def bottleneck(inputs: int, width: int, stride: int) -> Residual:
    """Build 1x1, 3x3 and 1x1 convolutions with a shortcut; the output is 4 times as wide."""
    main = [
        *conv_norm(inputs, width, 1),
        nn.ReLU(inplace=True),
        *conv_norm(width, width, 3, stride),
        nn.ReLU(inplace=True),
        *conv_norm(width, 4 * width, 1),
    ]
    return Residual(nn.Sequential(*main), inputs, 4 * width, stride)


class ResNet(Staged):
    """Build a residual network of four stages.

    Args:
        name: as registered, for messages.
        block: builds a block from (input channels, width, stride).
        expansion: a block's output channels divided by its width.
        depths: blocks of each stage.
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels, at least 8 (25 under `pool4`).
        head: how the last map becomes the embedding.

    Raises:
        UsageError: a size that leaves nothing to pool, or a count below 1.
    """

    spellings = RESIDUAL_SPELLINGS

    def __init__(
        self,
        name: str,
        block: Callable[[int, int, int], Residual],
        expansion: int,
        depths: tuple[int, int, int, int],
        num_classes: int,
        channels: int,
        size: int,
        head: Head,
    ) -> None:
        super().__init__()
        check_input(f"model {name}", num_classes=num_classes, channels=channels)
        self.pool, cells = _head(name, head, size)
        self.stem = nn.Sequential(*conv_norm(channels, 64, 3), nn.ReLU(inplace=True))
        self.stages = Stages()
        inputs = 64
        for depth, width, stride in zip(depths, (64, 128, 256, 512), (1, 2, 2, 2), strict=True):
            blocks = []
            for position in range(depth):
                blocks.append(block(inputs, width, stride if position == 0 else 1))
                inputs = width * expansion
            self.stages.append(Stage(*blocks))
        self.classifier = nn.Linear(inputs * cells, num_classes)

    def forward(self, images: Tensor) -> ModelOutput:
        """Classify [N, C, H, W] images; four stages, at H, H / 2, H / 4 and H / 8."""
        stages, preactivations = self.stages(self.stem(images))
        embedding = self.pool(stages[-1])
        return ModelOutput(self.classifier(embedding), embedding, stages, preactivations)


def _head(name: str, head: Head, size: int) -> tuple[Callable[[Tensor], Tensor], int]:
    """Give the pooling from the last map to the embedding, and the cells of the map that it leaves."""
    if head == "auto":
        head = "pool4" if size == 64 else "global"
    if head == "global":
        check_input(f"model {name}", size=size, smallest=8)
        return _global_pool, 1
    if head == "pool4":
        check_input(f"model {name} with head 'pool4'", size=size, smallest=25)
        return _pool4, (-(-size // 8) // 4) ** 2
    raise usage(f"model {name}", "head", "'auto' or 'global' or 'pool4'", head)


def _global_pool(x: Tensor) -> Tensor:
    # adaptive_avg_pool2d has no deterministic backward on CUDA.
    return x.mean(dim=(2, 3))


def _pool4(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 4).flatten(1)


@MODELS.register("resnet18")
def resnet18(num_classes: int, channels: int, size: int, *, head: Head = "auto") -> ResNet:
    """Build ResNet-18 for small images: basic blocks 2-2-2-2.

    Args:
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels.
        head: 'global' averages the whole last map, 'pool4' windows of 4x4; 'auto' is 'pool4' at 64 pixels,
            where the ReffAKD notebooks keep 2x2 cells, and 'global' elsewhere (at 32 both are the same).
    """
    return ResNet("resnet18", basic_block, 1, (2, 2, 2, 2), num_classes, channels, size, head)


@MODELS.register("resnet34")
def resnet34(num_classes: int, channels: int, size: int, *, head: Head = "auto") -> ResNet:
    """Build ResNet-34 for small images: basic blocks 3-4-6-3.

    Args:
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels.
        head: 'global' averages the whole last map, 'pool4' windows of 4x4; 'auto' is 'pool4' at 64 pixels,
            where the ReffAKD notebooks keep 2x2 cells, and 'global' elsewhere (at 32 both are the same).
    """
    return ResNet("resnet34", basic_block, 1, (3, 4, 6, 3), num_classes, channels, size, head)


@MODELS.register("resnet50")
def resnet50(num_classes: int, channels: int, size: int, *, head: Head = "auto") -> ResNet:
    """Build ResNet-50 for small images: bottlenecks 3-4-6-3.

    Args:
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels.
        head: 'global' averages the whole last map, 'pool4' windows of 4x4; 'auto' is 'pool4' at 64 pixels,
            where the ReffAKD notebooks keep 2x2 cells, and 'global' elsewhere (at 32 both are the same).
    """
    return ResNet("resnet50", bottleneck, 4, (3, 4, 6, 3), num_classes, channels, size, head)


@MODELS.register("resnet101")
def resnet101(num_classes: int, channels: int, size: int, *, head: Head = "auto") -> ResNet:
    """Build ResNet-101 for small images: bottlenecks 3-4-23-3.

    Args:
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels.
        head: 'global' averages the whole last map, 'pool4' windows of 4x4; 'auto' is 'pool4' at 64 pixels,
            where the ReffAKD notebooks keep 2x2 cells, and 'global' elsewhere (at 32 both are the same).
    """
    return ResNet("resnet101", bottleneck, 4, (3, 4, 23, 3), num_classes, channels, size, head)

"""The ResNets of depth 6n + 2 for small images: three stages of 16, 32 and 64 channels, or 4 times as many.

Source: He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition", CVPR,
https://arxiv.org/abs/1512.03385, section 4.2. Paper: shortcuts without parameters (option A); RepDistiller
(https://github.com/HobbitLong/RepDistiller): a 1x1 convolution with batch norm where the shape changes; here:
as RepDistiller, also in the initial weights (`kaiming_normal_` by fan-out, torch's own for the classifier).
The wide ones are RepDistiller's: "x4" multiplies the stages, while the stem has 32 channels, not 64.
"""

from __future__ import annotations

from typing import Literal, cast

from torch import Tensor, nn

from kdzoo.models.base import check_input
from kdzoo.models.layers import RESIDUAL_SPELLINGS, Stage, Staged, Stages, conv_norm
from kdzoo.outputs import ModelOutput
from kdzoo.registry import MODELS


class Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut, up to the sum; the network applies the last ReLU."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *conv_norm(inputs, width, 3, stride, he=True),
            nn.ReLU(inplace=True),
            *conv_norm(width, width, 3, he=True),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != width:
            self.shortcut = nn.Sequential(*conv_norm(inputs, width, 1, stride, he=True))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, width, H / stride, W / stride], before the ReLU."""
        return cast(Tensor, self.main(x) + self.shortcut(x))


class CifarResNet(Staged):
    """Build a network of 6n + 2 layers with weights.

    Args:
        depth: 6n + 2; n blocks a stage.
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels, at least 4.
        times: what multiplies the channels of the stages; 4 also doubles the stem's.

    Raises:
        UsageError: a smaller size, or a count below 1.
    """

    spellings = RESIDUAL_SPELLINGS

    def __init__(
        self, depth: int, num_classes: int, channels: int, size: int, times: Literal[1, 4] = 1
    ) -> None:
        super().__init__()
        name = f"resnet{depth}" + ("x4" if times == 4 else "")
        check_input(f"model {name}", num_classes=num_classes, channels=channels, size=size, smallest=4)
        inputs = 32 if times == 4 else 16
        self.stem = nn.Sequential(*conv_norm(channels, inputs, 3, he=True), nn.ReLU(inplace=True))
        self.stages = Stages()
        for width, stride in ((16 * times, 1), (32 * times, 2), (64 * times, 2)):
            rest = [Residual(width, width, 1) for _ in range((depth - 2) // 6 - 1)]
            self.stages.append(Stage(Residual(inputs, width, stride), *rest))
            inputs = width
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, images: Tensor) -> ModelOutput:
        """Classify [N, C, H, W] images; three stages, at H, H / 2 and H / 4; the embedding is [N, D]."""
        stages, preactivations = self.stages(self.stem(images))
        # adaptive_avg_pool2d has no deterministic backward on CUDA.
        embedding = stages[-1].mean(dim=(2, 3))
        return ModelOutput(self.classifier(embedding), embedding, stages, preactivations)


@MODELS.register("resnet8")
def resnet8(num_classes: int, channels: int, size: int) -> CifarResNet:
    """Build the thin ResNet-8: one block a stage."""
    return CifarResNet(8, num_classes, channels, size)


@MODELS.register("resnet14")
def resnet14(num_classes: int, channels: int, size: int) -> CifarResNet:
    """Build the thin ResNet-14: two blocks a stage."""
    return CifarResNet(14, num_classes, channels, size)


@MODELS.register("resnet20")
def resnet20(num_classes: int, channels: int, size: int) -> CifarResNet:
    """Build the thin ResNet-20: three blocks a stage."""
    return CifarResNet(20, num_classes, channels, size)


@MODELS.register("resnet32")
def resnet32(num_classes: int, channels: int, size: int) -> CifarResNet:
    """Build the thin ResNet-32: five blocks a stage."""
    return CifarResNet(32, num_classes, channels, size)


@MODELS.register("resnet44")
def resnet44(num_classes: int, channels: int, size: int) -> CifarResNet:
    """Build the thin ResNet-44: seven blocks a stage."""
    return CifarResNet(44, num_classes, channels, size)


@MODELS.register("resnet56")
def resnet56(num_classes: int, channels: int, size: int) -> CifarResNet:
    """Build the thin ResNet-56: nine blocks a stage."""
    return CifarResNet(56, num_classes, channels, size)


@MODELS.register("resnet110")
def resnet110(num_classes: int, channels: int, size: int) -> CifarResNet:
    """Build the thin ResNet-110: eighteen blocks a stage."""
    return CifarResNet(110, num_classes, channels, size)


@MODELS.register("resnet8x4")
def resnet8x4(num_classes: int, channels: int, size: int) -> CifarResNet:
    """Build ResNet-8 with 64, 128 and 256 channels: one block a stage."""
    return CifarResNet(8, num_classes, channels, size, times=4)


@MODELS.register("resnet32x4")
def resnet32x4(num_classes: int, channels: int, size: int) -> CifarResNet:
    """Build ResNet-32 with 64, 128 and 256 channels: five blocks a stage."""
    return CifarResNet(32, num_classes, channels, size, times=4)

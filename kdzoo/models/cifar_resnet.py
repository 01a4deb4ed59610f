"""The thin ResNets of depth 6n + 2 for small images: three stages of 16, 32 and 64 channels.

Source: He, Zhang, Ren and Sun 2016, "Deep residual learning for image recognition", CVPR,
https://arxiv.org/abs/1512.03385, section 4.2. Paper: shortcuts without parameters (option A); RepDistiller
(https://github.com/HobbitLong/RepDistiller): a 1x1 convolution with batch norm where the shape changes; here:
as RepDistiller, also in the initial weights (`kaiming_normal_` by fan-out, torch's own for the classifier).
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from kdzoo.models.base import check_input
from kdzoo.outputs import ModelOutput
from kdzoo.registry import MODELS


class Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut, up to the sum; the network applies the last ReLU."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *_conv_norm(inputs, width, 3, stride), nn.ReLU(inplace=True), *_conv_norm(width, width, 3)
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != width:
            self.shortcut = nn.Sequential(*_conv_norm(inputs, width, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, width, H / stride, W / stride], before the ReLU."""
        return cast(Tensor, self.main(x) + self.shortcut(x))


class Stage(nn.Sequential):
    """Residual blocks, each followed by a ReLU."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give the stage's output and the same before its last ReLU."""
        for block in self:
            preactivation = block(x)
            x = functional.relu(preactivation)
        return x, preactivation


def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return [conv, nn.BatchNorm2d(outputs)]


class CifarResNet(nn.Module):
    """Build a network of 6n + 2 layers with weights.

    Args:
        depth: 6n + 2; n blocks a stage.
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels, at least 4.

    Raises:
        UsageError: a smaller size, or a count below 1.
    """

    def __init__(self, depth: int, num_classes: int, channels: int, size: int) -> None:
        super().__init__()
        check_input(f"model resnet{depth}", num_classes=num_classes, channels=channels, size=size, smallest=4)
        self.stem = nn.Sequential(*_conv_norm(channels, 16, 3), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList()
        for inputs, width, stride in ((16, 16, 1), (16, 32, 2), (32, 64, 2)):
            rest = [Residual(width, width, 1) for _ in range((depth - 2) // 6 - 1)]
            self.stages.append(Stage(Residual(inputs, width, stride), *rest))
        self.classifier = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> ModelOutput:
        """Classify [N, C, H, W] images; three stages, at H, H / 2 and H / 4; the embedding is [N, 64]."""
        x = self.stem(images)
        stages, preactivations = [], []
        for stage in self.stages:
            x, preactivation = stage(x)
            stages.append(x)
            preactivations.append(preactivation)
        # adaptive_avg_pool2d has no deterministic backward on CUDA.
        embedding = x.mean(dim=(2, 3))
        return ModelOutput(self.classifier(embedding), embedding, tuple(stages), tuple(preactivations))


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

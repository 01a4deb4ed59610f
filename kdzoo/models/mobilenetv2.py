"""MobileNetV2 at half width for small images.

Source: Sandler, Howard, Zhu, Zhmoginov and Chen 2018, "MobileNetV2: inverted residuals and linear
bottlenecks", CVPR, https://arxiv.org/abs/1801.04381, table 2, as RepDistiller
(https://github.com/HobbitLong/RepDistiller, models/mobilenetv2.py, `mobile_half`) has it. Paper: ReLU6, and a
stride of 2 in the second group, too, for images of 224 pixels; RepDistiller: ReLU, stride 1 there, and a 1x1
convolution in the first group, too, where nothing expands; here: as RepDistiller, also in the initial weights
(`kaiming_normal_` by fan-out, the classifier's normal with deviation 0.01).
"""

from __future__ import annotations

from typing import ClassVar, cast

from torch import Tensor, nn

from kdzoo.models.base import check_input
from kdzoo.models.layers import conv_norm
from kdzoo.outputs import ModelOutput
from kdzoo.registry import MODELS

# Of each group: expansion, output channels at full width, blocks, stride of the first block.
GROUPS = (
    (1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
# The positions of the groups after which the resolution falls, and of the last.
STAGES = (1, 2, 4, 6)


class InvertedResidual(nn.Module):
    """A 1x1 convolution that expands, a 3x3 one for each channel, and a 1x1 one that projects, without ReLU.

    Args:
        inputs: channels of its input.
        outputs: channels of its output.
        stride: of the 3x3 convolution.
        expansion: channels in between, divided by those of the input.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.main = nn.Sequential(
            *conv_norm(inputs, wide, 1, he=True),
            nn.ReLU(inplace=True),
            *conv_norm(wide, wide, 3, stride, groups=wide, he=True),
            nn.ReLU(inplace=True),
            *conv_norm(wide, outputs, 1, he=True),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        return cast(Tensor, x + self.main(x) if self.residual else self.main(x))


class MobileNetV2(nn.Module):
    """Build the network at half its width.

    Args:
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels, at least 16.

    Attributes:
        linear_stages: its stages end without an activation, so they are their own preactivations.

    Raises:
        UsageError: a smaller size, or a count below 1.
    """

    linear_stages: ClassVar[bool] = True
    spellings = (
        (
            (".stem.", ".conv1."), (".groups.", ".blocks."), (".main.", ".conv."), (".head.", ".conv2."),
            (".classifier.", ".classifier.0."),
        ),
    )  # fmt: skip

    def __init__(self, num_classes: int, channels: int, size: int) -> None:
        super().__init__()
        check_input("model mobilenetv2", num_classes=num_classes, channels=channels, size=size, smallest=16)
        inputs = 16
        self.stem = nn.Sequential(*conv_norm(channels, inputs, 3, 2, he=True), nn.ReLU(inplace=True))
        self.groups = nn.ModuleList()
        for expansion, full_width, blocks, first_stride in GROUPS:
            group = nn.Sequential()
            for stride in (first_stride, *(1,) * (blocks - 1)):
                group.append(InvertedResidual(inputs, full_width // 2, stride, expansion))
                inputs = full_width // 2
            self.groups.append(group)
        # The paper keeps the last width at 1280 in narrower networks.
        self.head = nn.Sequential(*conv_norm(inputs, 1280, 1, he=True), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(1280, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> ModelOutput:
        """Classify [N, C, H, W] images; stages at H / 2, H / 4, H / 8, H / 16; the embedding is [N, 1280]."""
        x = self.stem(images)
        stages = []
        for position, group in enumerate(self.groups):
            x = group(x)
            if position in STAGES:
                stages.append(x)
        # adaptive_avg_pool2d has no deterministic backward on CUDA.
        embedding = self.head(x).mean(dim=(2, 3))
        return ModelOutput(self.classifier(embedding), embedding, tuple(stages), tuple(stages))


@MODELS.register("mobilenetv2")
def mobilenetv2(num_classes: int, channels: int, size: int) -> MobileNetV2:
    """Build MobileNetV2 with half the channels of the paper, as public tables on CIFAR-100 have it."""
    return MobileNetV2(num_classes, channels, size)

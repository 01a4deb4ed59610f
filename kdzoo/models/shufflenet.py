"""ShuffleNet V1 with three groups and ShuffleNet V2 at width 1 for small images.

Sources: Zhang, Zhou, Lin and Sun 2018, "ShuffleNet: an extremely efficient convolutional neural network for
mobile devices", CVPR, https://arxiv.org/abs/1707.01083, table 1; Ma, Zhang, Zheng and Sun 2018, "ShuffleNet
V2: practical guidelines for efficient CNN architecture design", ECCV, https://arxiv.org/abs/1807.11164, table
5; for small images as RepDistiller (https://github.com/HobbitLong/RepDistiller, models/ShuffleNetv1.py and
ShuffleNetv2.py) has them, after https://github.com/kuangliu/pytorch-cifar. Papers: a stem of a 3x3
convolution of stride 2 and max-pooling; RepDistiller: a 1x1 convolution of stride 1; here: as RepDistiller,
also in the initial weights (torch's own).

RepDistiller: what ShuffleNet V2 gives as a stage before its ReLU is not shuffled, so its channels are not the
stage's; here: shuffled.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdzoo.models.base import check_input
from kdzoo.models.layers import Stage, Staged, Stages, conv_norm
from kdzoo.outputs import ModelOutput
from kdzoo.registry import MODELS

# Output channels of the stem, at every width and number of groups.
STEM = 24
STAGES = ((".stages.0.", ".layer1."), (".stages.1.", ".layer2."), (".stages.2.", ".layer3."))


class Shuffle(nn.Module):
    """Channels dealt out over groups: those of one group go to all of them in turn.

    Args:
        groups: how many.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to the same shape."""
        n, channels, height, width = x.shape
        dealt = x.reshape(n, self.groups, channels // self.groups, height, width).transpose(1, 2)
        return dealt.reshape(n, channels, height, width)


class GroupedUnit(nn.Module):
    """A unit of V1 up to its sum, or with stride 2 up to its concatenation with the averaged input.

    Args:
        inputs: channels of its input.
        outputs: channels of its output, a stride's input included.
        stride: of the 3x3 convolution, which each channel has of its own.
        groups: of the 1x1 convolutions; the first has one group behind the stem.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        own = outputs - inputs if stride == 2 else outputs
        narrow = own // 4
        first = 1 if inputs == STEM else groups
        self.stride = stride
        self.main = nn.Sequential(
            *conv_norm(inputs, narrow, 1, groups=first),
            nn.ReLU(inplace=True),
            Shuffle(first),
            *conv_norm(narrow, narrow, 3, stride, groups=narrow),
            nn.ReLU(inplace=True),
            *conv_norm(narrow, own, 1, groups=groups),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, outputs, H / stride, W / stride], before the ReLU."""
        if self.stride == 1:
            return cast(Tensor, self.main(x) + x)
        return torch.cat([self.main(x), functional.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)


class SplitUnit(nn.Module):
    """A unit of V2 that keeps half the channels and changes the others.

    Args:
        width: channels of input and output.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.main = nn.Sequential(
            *conv_norm(half, half, 1),
            nn.ReLU(inplace=True),
            *conv_norm(half, half, 3, groups=half),
            *conv_norm(half, half, 1),
        )
        self.shuffle = Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, width, H, W], rectified, to the same shape before the ReLU, which leaves what is kept."""
        kept, changed = x.chunk(2, dim=1)
        return cast(Tensor, self.shuffle(torch.cat([kept, self.main(changed)], dim=1)))


class DownUnit(nn.Module):
    """A unit of V2 that halves the resolution, with two branches.

    Args:
        inputs: channels of its input.
        width: channels of its output, half of them from each branch.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.left = nn.Sequential(
            *conv_norm(inputs, inputs, 3, 2, groups=inputs), *conv_norm(inputs, half, 1)
        )
        self.right = nn.Sequential(
            *conv_norm(inputs, half, 1),
            nn.ReLU(inplace=True),
            *conv_norm(half, half, 3, 2, groups=half),
            *conv_norm(half, half, 1),
        )
        self.shuffle = Shuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, width, H / 2, W / 2], before the ReLU."""
        return cast(Tensor, self.shuffle(torch.cat([self.left(x), self.right(x)], dim=1)))


class ShuffleNetV1(Staged):
    """Build ShuffleNet V1 with three groups: 240, 480 and 960 channels.

    Args:
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels, at least 8.

    Raises:
        UsageError: a smaller size, or a count below 1.
    """

    spellings = (
        (
            (".stem.0.", ".conv1."), (".stem.1.", ".bn1."), *STAGES,
            (".main.0.", ".conv1."), (".main.1.", ".bn1."), (".main.4.", ".conv2."), (".main.5.", ".bn2."),
            (".main.7.", ".conv3."), (".main.8.", ".bn3."), (".classifier.", ".linear."),
        ),
    )  # fmt: skip

    def __init__(self, num_classes: int, channels: int, size: int) -> None:
        super().__init__()
        check_input("model shufflenetv1", num_classes=num_classes, channels=channels, size=size, smallest=8)
        self.stem = nn.Sequential(*conv_norm(channels, STEM, 1), nn.ReLU(inplace=True))
        self.stages = Stages()
        inputs = STEM
        for width, units in ((240, 4), (480, 8), (960, 4)):
            rest = [GroupedUnit(width, width, 1, groups=3) for _ in range(units - 1)]
            self.stages.append(Stage(GroupedUnit(inputs, width, 2, groups=3), *rest))
            inputs = width
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, images: Tensor) -> ModelOutput:
        """Classify [N, C, H, W] images; three stages, at H / 2, H / 4, H / 8; the embedding is [N, 960]."""
        stages, preactivations = self.stages(self.stem(images))
        # adaptive_avg_pool2d has no deterministic backward on CUDA.
        embedding = stages[-1].mean(dim=(2, 3))
        return ModelOutput(self.classifier(embedding), embedding, stages, preactivations)


class ShuffleNetV2(nn.Module):
    """Build ShuffleNet V2 at width 1: 116, 232 and 464 channels, and 1024 before the pooling.

    Args:
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels, at least 8.

    Raises:
        UsageError: a smaller size, or a count below 1.
    """

    spellings = (
        (
            (".stem.0.", ".conv1."), (".stem.1.", ".bn1."), (".head.0.", ".conv2."), (".head.1.", ".bn2."),
            *STAGES, (".classifier.", ".linear."),
            (".left.0.", ".conv1."), (".left.1.", ".bn1."), (".left.2.", ".conv2."), (".left.3.", ".bn2."),
            (".right.0.", ".conv3."), (".right.1.", ".bn3."), (".right.3.", ".conv4."),
            (".right.4.", ".bn4."), (".right.5.", ".conv5."), (".right.6.", ".bn5."),
            (".main.0.", ".conv1."), (".main.1.", ".bn1."), (".main.3.", ".conv2."), (".main.4.", ".bn2."),
            (".main.5.", ".conv3."), (".main.6.", ".bn3."),
        ),
    )  # fmt: skip

    def __init__(self, num_classes: int, channels: int, size: int) -> None:
        super().__init__()
        check_input("model shufflenetv2", num_classes=num_classes, channels=channels, size=size, smallest=8)
        self.stem = nn.Sequential(*conv_norm(channels, STEM, 1), nn.ReLU(inplace=True))
        self.stages = Stages()
        inputs = STEM
        for width, units in ((116, 4), (232, 8), (464, 4)):
            rest = [SplitUnit(width) for _ in range(units - 1)]
            self.stages.append(Stage(DownUnit(inputs, width), *rest))
            inputs = width
        self.head = nn.Sequential(*conv_norm(inputs, 1024, 1), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(1024, num_classes)

    def forward(self, images: Tensor) -> ModelOutput:
        """Classify [N, C, H, W] images; three stages, at H / 2, H / 4, H / 8; the embedding is [N, 1024]."""
        stages, preactivations = self.stages(self.stem(images))
        # adaptive_avg_pool2d has no deterministic backward on CUDA.
        embedding = self.head(stages[-1]).mean(dim=(2, 3))
        return ModelOutput(self.classifier(embedding), embedding, stages, preactivations)


@MODELS.register("shufflenetv1")
def shufflenetv1(num_classes: int, channels: int, size: int) -> ShuffleNetV1:
    """Build ShuffleNet V1 with three groups: 4-8-4 units."""
    return ShuffleNetV1(num_classes, channels, size)


@MODELS.register("shufflenetv2")
def shufflenetv2(num_classes: int, channels: int, size: int) -> ShuffleNetV2:
    """Build ShuffleNet V2 at width 1: 4-8-4 units."""
    return ShuffleNetV2(num_classes, channels, size)

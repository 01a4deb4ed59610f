"""Wide residual networks of depth 6n + 4 and width k for small images: 16k, 32k and 64k channels.

Source: Zagoruyko and Komodakis 2016, "Wide residual networks", BMVC, https://arxiv.org/abs/1605.07146, table
1, as RepDistiller (https://github.com/HobbitLong/RepDistiller, models/wrn.py) has them, also in the initial
weights (`kaiming_normal_` by fan-out; the classifier's are torch's own with zero bias).

Batch norm and ReLU stand before the convolutions, so a block ends in a bare sum. RepDistiller: a stage's
features are that sum; here: the sum behind the next batch norm, the following block's first or the network's
last, and ReLU, which the network computes anyway. RepDistiller has the same before ReLU as its features
"preact".
"""

from __future__ import annotations

from typing import Annotated, cast

from torch import Tensor, nn
from torch.nn import functional

from kdzoo.checks import Interval
from kdzoo.models.base import check_input
from kdzoo.models.layers import Staged, Stages, conv_norm, convolution
from kdzoo.outputs import ModelOutput
from kdzoo.registry import MODELS

Dropout = Annotated[float, Interval(low=0, high=1, open_high=True)]


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm and ReLU before each, up to the sum.

    Args:
        inputs: channels of its input.
        width: channels of its output. Where they change, the shortcut is a 1x1 convolution.
        stride: of the whole block.
        dropout: the share of values that is dropped between the convolutions.
        activated: whether its input has been through batch norm and ReLU.
    """

    def __init__(self, inputs: int, width: int, stride: int, dropout: float, *, activated: bool) -> None:
        super().__init__()
        self.enter: nn.Module = nn.Identity()
        if not activated:
            self.enter = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.main = nn.Sequential(
            *conv_norm(inputs, width, 3, stride, he=True),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            convolution(width, width, 3, he=True),
        )
        self.shortcut = convolution(inputs, width, 1, stride, he=True) if inputs != width else None

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, H, W] to [N, width, H / stride, W / stride]."""
        entered = self.enter(x)
        return cast(Tensor, self.main(entered) + (x if self.shortcut is None else self.shortcut(entered)))


class Stage(nn.Module):
    """Residual blocks, and the batch norm that the network applies next.

    Args:
        blocks: how many.
        inputs: channels of its input.
        width: channels of its output.
        stride: of the first block.
        dropout: of each block.
        activated: whether its input has been through batch norm and ReLU, as another stage's output has.
    """

    def __init__(
        self, blocks: int, inputs: int, width: int, stride: int, dropout: float, *, activated: bool
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Residual(inputs, width, stride, dropout, activated=activated))
        for _ in range(blocks - 1):
            self.blocks.append(Residual(width, width, 1, dropout, activated=False))
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give the stage's output and the same before its last ReLU."""
        preactivation = self.norm(self.blocks(x))
        return functional.relu(preactivation), preactivation


class WideResNet(Staged):
    """Build a wide residual network.

    Args:
        depth: 6n + 4; n blocks a stage.
        times: the width k.
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels, at least 4.
        dropout: the share of values that each block drops in training.

    Raises:
        UsageError: a smaller size, or a count below 1.
    """

    # A stage's last batch norm is there the next stage's first.
    spellings = (
        (
            (".stem.", ".conv1."), (".stages.2.norm.", ".bn1."),
            (".stages.0.norm.", ".block2.layer.0.bn1."), (".stages.1.norm.", ".block3.layer.0.bn1."),
            (".stages.0.blocks.", ".block1.layer."), (".stages.1.blocks.", ".block2.layer."),
            (".stages.2.blocks.", ".block3.layer."),
            (".enter.0.", ".bn1."), (".main.0.", ".conv1."), (".main.1.", ".bn2."), (".main.4.", ".conv2."),
            (".shortcut.", ".convShortcut."), (".classifier.", ".fc."),
        ),
    )  # fmt: skip

    def __init__(
        self, depth: int, times: int, num_classes: int, channels: int, size: int, dropout: float
    ) -> None:
        super().__init__()
        who = f"model wrn_{depth}_{times}"
        check_input(who, num_classes=num_classes, channels=channels, size=size, smallest=4)
        self.stem = convolution(channels, 16, 3, he=True)
        self.stages = Stages()
        inputs = 16
        for position, stride in enumerate((1, 2, 2)):
            width = 16 * times * 2**position
            blocks = (depth - 4) // 6
            self.stages.append(Stage(blocks, inputs, width, stride, dropout, activated=position > 0))
            inputs = width
        self.classifier = nn.Linear(inputs, num_classes)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> ModelOutput:
        """Classify [N, C, H, W] images; three stages, at H, H / 2 and H / 4; the embedding is [N, 64k]."""
        stages, preactivations = self.stages(self.stem(images))
        # adaptive_avg_pool2d has no deterministic backward on CUDA.
        embedding = stages[-1].mean(dim=(2, 3))
        return ModelOutput(self.classifier(embedding), embedding, stages, preactivations)


@MODELS.register("wrn_16_1")
def wrn_16_1(num_classes: int, channels: int, size: int, *, dropout: Dropout = 0.0) -> WideResNet:
    """Build WRN-16-1: two blocks a stage, 16, 32 and 64 channels.

    Args:
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels.
        dropout: the share of values that each block drops in training. Default: RepDistiller's.
    """
    return WideResNet(16, 1, num_classes, channels, size, dropout)


@MODELS.register("wrn_16_2")
def wrn_16_2(num_classes: int, channels: int, size: int, *, dropout: Dropout = 0.0) -> WideResNet:
    """Build WRN-16-2: two blocks a stage, 32, 64 and 128 channels.

    Args:
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels.
        dropout: the share of values that each block drops in training. Default: RepDistiller's.
    """
    return WideResNet(16, 2, num_classes, channels, size, dropout)


@MODELS.register("wrn_40_1")
def wrn_40_1(num_classes: int, channels: int, size: int, *, dropout: Dropout = 0.0) -> WideResNet:
    """Build WRN-40-1: six blocks a stage, 16, 32 and 64 channels.

    Args:
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels.
        dropout: the share of values that each block drops in training. Default: RepDistiller's.
    """
    return WideResNet(40, 1, num_classes, channels, size, dropout)


@MODELS.register("wrn_40_2")
def wrn_40_2(num_classes: int, channels: int, size: int, *, dropout: Dropout = 0.0) -> WideResNet:
    """Build WRN-40-2: six blocks a stage, 32, 64 and 128 channels.

    Args:
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels.
        dropout: the share of values that each block drops in training. Default: RepDistiller's.
    """
    return WideResNet(40, 2, num_classes, channels, size, dropout)

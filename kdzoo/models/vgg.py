"""VGG with batch norm for small images: 3x3 convolutions of up to 512 channels, and one linear layer.

Source: Simonyan and Zisserman 2015, "Very deep convolutional networks for large-scale image recognition",
ICLR, https://arxiv.org/abs/1409.1556, table 1, for small images as RepDistiller
(https://github.com/HobbitLong/RepDistiller, models/vgg.py) has them. Paper: no batch norm, max-pooling after
every block, three linear layers; RepDistiller: batch norm, the last map averaged, one linear layer, and the
fourth max-pooling at 64 pixels alone; here: as RepDistiller, the fourth from 64 pixels on. Initial weights
are RepDistiller's (`kaiming_normal_` by fan-out, the classifier's normal with deviation 0.01).

RepDistiller: features of all five blocks, of which its distillers leave out the first, as they leave out a
stem; here: the first is no stage, nor below 64 pixels the fourth, which has the resolution of the fifth.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from kdzoo.models.base import check_input
from kdzoo.models.layers import conv_norm
from kdzoo.outputs import ModelOutput
from kdzoo.registry import MODELS

WIDTHS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """Build a network of five blocks.

    Args:
        depths: 3x3 convolutions of each block.
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels, at least 8.

    Raises:
        UsageError: a smaller size, or a count below 1.
    """

    spellings = (tuple((f".blocks.{i}.", f".block{i}.") for i in range(len(WIDTHS))),)

    def __init__(
        self, depths: tuple[int, int, int, int, int], num_classes: int, channels: int, size: int
    ) -> None:
        super().__init__()
        who = f"model vgg{sum(depths) + 3}"
        check_input(who, num_classes=num_classes, channels=channels, size=size, smallest=8)
        # The positions of the blocks that max-pooling follows.
        self.pooled = (0, 1, 2, 3) if size >= 64 else (0, 1, 2)
        # The positions of the blocks that are stages.
        self.ends = (*self.pooled[1:], 4)
        self.blocks = nn.ModuleList()
        for depth, width in zip(depths, WIDTHS, strict=True):
            self.blocks.append(_block(depth, channels, width))
            channels = width
        self.classifier = nn.Linear(channels, num_classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    @property
    def stage_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """Give the batch norm that ends each stage."""
        return tuple(cast(nn.BatchNorm2d, cast(nn.Sequential, self.blocks[end])[-1]) for end in self.ends)

    def forward(self, images: Tensor) -> ModelOutput:
        """Classify [N, C, H, W] images; three stages or four, from H / 2 down; the embedding is [N, 512]."""
        x = images
        stages, preactivations = [], []
        for position, block in enumerate(self.blocks):
            preactivation = block(x)
            x = stage = functional.relu(preactivation)
            if position in self.pooled:
                x = functional.max_pool2d(stage, 2)
            if position in self.ends:
                stages.append(stage)
                preactivations.append(preactivation)
        # adaptive_avg_pool2d has no deterministic backward on CUDA.
        embedding = x.mean(dim=(2, 3))
        return ModelOutput(self.classifier(embedding), embedding, tuple(stages), tuple(preactivations))


def _block(depth: int, inputs: int, width: int) -> nn.Sequential:
    """Build convolutions with bias and batch norm, and a ReLU between them."""
    layers = conv_norm(inputs, width, 3, bias=True, he=True)
    for _ in range(depth - 1):
        layers += [nn.ReLU(inplace=True), *conv_norm(width, width, 3, bias=True, he=True)]
    return nn.Sequential(*layers)


@MODELS.register("vgg8")
def vgg8(num_classes: int, channels: int, size: int) -> VGG:
    """Build VGG-8, RepDistiller's: one convolution a block; its depth counts three linear layers."""
    return VGG((1, 1, 1, 1, 1), num_classes, channels, size)


@MODELS.register("vgg11")
def vgg11(num_classes: int, channels: int, size: int) -> VGG:
    """Build VGG-11: 1-1-2-2-2 convolutions; its depth counts the paper's three linear layers."""
    return VGG((1, 1, 2, 2, 2), num_classes, channels, size)


@MODELS.register("vgg13")
def vgg13(num_classes: int, channels: int, size: int) -> VGG:
    """Build VGG-13: two convolutions a block; its depth counts the paper's three linear layers."""
    return VGG((2, 2, 2, 2, 2), num_classes, channels, size)


@MODELS.register("vgg16")
def vgg16(num_classes: int, channels: int, size: int) -> VGG:
    """Build VGG-16: 2-2-3-3-3 convolutions; its depth counts the paper's three linear layers."""
    return VGG((2, 2, 3, 3, 3), num_classes, channels, size)


@MODELS.register("vgg19")
def vgg19(num_classes: int, channels: int, size: int) -> VGG:
    """Build VGG-19: 2-2-4-4-4 convolutions; its depth counts the paper's three linear layers."""
    return VGG((2, 2, 4, 4, 4), num_classes, channels, size)

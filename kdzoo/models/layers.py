"""The layers that several families of networks are made of, and what public checkpoints call them."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from kdzoo.models.base import Spelling

# Of residual networks in the manner of torchvision, of RepDistiller and of kuangliu's pytorch-cifar.
RESIDUAL_SPELLINGS: tuple[Spelling, ...] = tuple(
    (
        (".stem.0.", ".conv1."), (".stem.1.", ".bn1."),
        (".stages.0.", ".layer1."), (".stages.1.", ".layer2."),
        (".stages.2.", ".layer3."), (".stages.3.", ".layer4."),
        (".main.0.", ".conv1."), (".main.1.", ".bn1."), (".main.3.", ".conv2."), (".main.4.", ".bn2."),
        (".main.6.", ".conv3."), (".main.7.", ".bn3."),
        (".shortcut.", shortcut), (".classifier.", classifier),
    )
    for shortcut in (".downsample.", ".shortcut.")
    for classifier in (".fc.", ".linear.")
)  # fmt: skip


def convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, bias: bool = False,
    he: bool = False,
) -> nn.Conv2d:  # fmt: skip
    """Build a convolution that keeps height and width, or divides them by its stride and rounds up.

    Args:
        inputs: channels of its input.
        outputs: channels of its output.
        kernel: height and width of its kernel in pixels, odd.
        stride: in pixels.
        groups: of channels that do not see each other.
        bias: whether it has one.
        he: whether its weights start as in He et al. 2015 (normal, variance 2 / fan-out) and its bias at
            zero; torch's own start otherwise.
    """
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)
    if he:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return layer


def conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, bias: bool = False,
    he: bool = False,
) -> list[nn.Module]:  # fmt: skip
    """Build a convolution and its batch norm; the arguments are those of `convolution`."""
    layer = convolution(inputs, outputs, kernel, stride, groups=groups, bias=bias, he=he)
    return [layer, nn.BatchNorm2d(outputs)]


class Stage(nn.Sequential):
    """Blocks that end before their last ReLU, each followed by it."""

    @property
    def norm(self) -> nn.BatchNorm2d:
        """Give the batch norm that ends the last block's main branch, which is called `main`."""
        return cast(nn.BatchNorm2d, cast(nn.Sequential, self[-1].main)[-1])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give the stage's output and the same before its last ReLU."""
        for block in self:
            preactivation = block(x)
            x = functional.relu(preactivation)
        return x, preactivation


class Staged(nn.Module):
    """A network whose stages are all in its `stages`."""

    stages: Stages

    @property
    def stage_norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """Give the batch norm that ends each stage, of residual blocks that of the main branch."""
        return tuple(cast(nn.BatchNorm2d, stage.norm) for stage in self.stages)


class Stages(nn.ModuleList):
    """Stages, each of which gives its output and the same before its last ReLU."""

    def forward(self, x: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Give the outputs of all stages, fine to coarse, and the same before their last ReLU."""
        stages, preactivations = [], []
        for stage in self:
            x, preactivation = stage(x)
            stages.append(x)
            preactivations.append(preactivation)
        return tuple(stages), tuple(preactivations)

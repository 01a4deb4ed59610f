"""What every network of the zoo agrees on: how it is built, that it returns a `ModelOutput`, and under which
names public checkpoints keep its weights; and the layers that several families are made of."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdzoo.checks import checked, options_of, usage
from kdzoo.outputs import ModelOutput, Shapes, as_output, shapes_of
from kdzoo.registry import MODELS


def build_model(
    name: str, *, num_classes: int, channels: int, size: int, options: Mapping[str, object] | None = None
) -> nn.Module:
    """Build a network by its registered name.

    Its initial weights come from torch's global generator: seed it first (`torch.manual_seed(key(...))`).

    Args:
        name: a name of `kdzoo list models`.
        num_classes: classes K of its classifier.
        channels: channels of its input images.
        size: height and width of its input images in pixels.
        options: the model's own keyword arguments, texts or values.

    Returns:
        A module that maps [N, channels, size, size] float images to a `ModelOutput`.

    Raises:
        UsageError: an unknown name or option, or an input that the network cannot take.
    """
    build: Callable[..., nn.Module] = MODELS.find(name)
    values: dict[str, Any] = checked(f"model {name}", options_of(build), options or {})
    return build(num_classes, channels, size, **values)


def output_shapes(network: nn.Module, channels: int, size: int) -> Shapes:
    """Find the shapes of a network's output for one image by running it once in evaluation mode.

    Args:
        network: as `build_model` makes it.
        channels: channels of its input images.
        size: height and width of its input images in pixels.
    """
    parameter = next(network.parameters())
    return shapes_of(outputs_of(network, torch.zeros(1, channels, size, size, device=parameter.device)))


def outputs_of(network: nn.Module, images: Tensor) -> ModelOutput:
    """Run a network once in evaluation mode, without gradients, and leave it as it was.

    Args:
        network: returns a `ModelOutput`, or [N, K] logits.
        images: [N, C, H, W].

    Raises:
        UsageError: it returns something else.
    """
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad():
            return as_output(network.eval()(images))
    finally:
        # One by one, as some may have been frozen in evaluation mode on purpose.
        for module, training in modes.items():
            module.training = training


def count_parameters(network: nn.Module) -> int:
    """Count the trainable numbers of a network."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def check_input(
    who: str,
    *,
    num_classes: int | None = None,
    channels: int | None = None,
    size: int | None = None,
    smallest: int = 1,
) -> None:
    """Refuse an input that no network of this kind can take; what is not given is not checked.

    Args:
        who: the model, for the message: "model resnet18".
        num_classes: at least 1.
        channels: at least 1.
        size: at least `smallest`, in pixels.
        smallest: the smallest image of which the last stage keeps enough.

    Raises:
        UsageError: a number is too small.
    """
    for what, got, least in (
        ("num_classes", num_classes, 1),
        ("channels", channels, 1),
        ("size", size, smallest),
    ):
        if got is not None and got < least:
            raise usage(who, what, f"at least {least}", got)


class _Answer(nn.Module):
    """What a network is there for: its logits, or the images that an autoencoder gives back."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        output: ModelOutput = self.network(images)
        if output.logits is not None:
            return output.logits
        reconstruct = cast(Callable[[Tensor | None], Tensor], self.network.reconstruct)
        return reconstruct(output.embedding)


def flops(network: nn.Module, channels: int, size: int) -> int:
    """Count the multiply-adds from one image to its logits, or to its reconstruction where there are none.

    They are counted as fvcore does, in evaluation mode: convolutions and linear layers by their products,
    batch norm as two an element; activations, sums and pooling are free.

    Args:
        network: as `build_model` makes it.
        channels: channels of its input images.
        size: height and width of its input images in pixels.
    """
    training = network.training
    parameter = next(network.parameters())
    image = torch.zeros(1, channels, size, size, device=parameter.device, dtype=parameter.dtype)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # fvcore uses parts of torch.jit that torch calls deprecated.
            from fvcore.nn import FlopCountAnalysis

            analysis = FlopCountAnalysis(_Answer(network).eval(), image)
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
            return int(analysis.total())
    finally:
        network.train(training)


Spelling = tuple[tuple[str, str], ...]

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


def names_in_file(network: nn.Module, given: Iterable[str]) -> dict[str, str]:
    """Find under which names a file keeps the tensors of a network.

    Public checkpoints of the same architecture have names of their own. A family declares them in its class
    attribute `spellings`; each is a tuple of (our part, their part), replaced in that order in names that
    begin and end with a dot. The file's own names decide: the spelling that shares most of them holds, and
    ours where none shares more.

    Args:
        network: whose tensors they are.
        given: the names that the file has.

    Returns:
        The file's name for each tensor of the network, in its order, whether or not the file has it.
    """
    found = set(given)
    spellings: tuple[Spelling, ...] = ((), *getattr(network, "spellings", ()))
    candidates = [{name: _spelled(name, spelling) for name in network.state_dict()} for spelling in spellings]
    return max(candidates, key=lambda names: len(found.intersection(names.values())))


def _spelled(name: str, spelling: Spelling) -> str:
    name = f".{name}."
    for ours, theirs in spelling:
        name = name.replace(ours, theirs)
    return name[1:-1]


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

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give the stage's output and the same before its last ReLU."""
        for block in self:
            preactivation = block(x)
            x = functional.relu(preactivation)
        return x, preactivation


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

"""Networks as users bring them: none knows of kdzoo."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from kdzoo.outputs import ModelOutput


class Plain(nn.Module):
    """Three stages behind a stem; the ReLU behind the last normalisation is in place."""

    def __init__(self, num_classes: int, in_chans: int = 3, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_chans, width, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.fine = self._stage(width, 1)
        self.middle = self._stage(width, 2)
        self.coarse = nn.Sequential(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1))
        self.norm = nn.BatchNorm2d(2 * width)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(2 * width, num_classes)

    @staticmethod
    def _stage(width: int, stride: int) -> nn.Sequential:
        # A wide convolution at the old size before the stride, as in inverted bottlenecks.
        wide = nn.Conv2d(width, 3 * width, 1)
        narrow = nn.Conv2d(3 * width, width, 3, stride=stride, padding=1)
        return nn.Sequential(nn.Sequential(wide, nn.BatchNorm2d(3 * width), nn.ReLU(inplace=True), narrow))

    def features(self, images: Tensor) -> Tensor:
        x = self.middle(self.fine(self.stem(images)))
        return self.relu(self.norm(self.coarse(x))).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Any:
        return self.head(self.dropout(self.features(images)))


class Answering(Plain):
    """Returns its logits in one of the ways that are common."""

    def __init__(self, num_classes: int, how: str = "tuple") -> None:
        super().__init__(num_classes)
        self.how = how

    def forward(self, images: Tensor) -> Any:
        features = self.features(images)
        logits = self.head(self.dropout(features))
        return {
            "tuple": (logits, features),
            "dict": {"hidden": features, "logits": logits},
            "object": SimpleNamespace(hidden=features, logits=logits),
            "output": ModelOutput(logits, features),
            "text": "logits",
            "scaled": 2 * logits,
        }[self.how]


class ConvHead(nn.Module):
    """Classifies by a convolution on the last map, as SqueezeNet does."""

    def __init__(self, num_classes: int, channels: int, image_size: int) -> None:
        super().__init__()
        self.size = image_size
        self.body = nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Dropout(0.2, inplace=True),
        )  # fmt: skip
        self.head = nn.Conv2d(8, num_classes, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[-1] == self.size
        return self.pool(self.head(self.body(images))).flatten(1)


class Dropped(nn.Module):
    """Dropout works in place on a stage: seen in training alone."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(channels, 4, 3, padding=1)
        self.dropout = nn.Dropout(0.5, inplace=True)
        self.coarse = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.coarse(self.dropout(self.fine(images))).mean(dim=(2, 3)))


class Numbers(nn.Module):
    """Reads numbers while it is built, which the meta device does not have."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        widths = [int(w.item()) for w in torch.linspace(4, 8, 3)]
        self.body = nn.Conv2d(channels, widths[1], 3, stride=2)
        self.scale = nn.Parameter(torch.rand(()))
        self.fc = nn.Linear(widths[1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.body(images).mean(dim=(2, 3))
        # A tensor made in the forward pass, on torch's default device.
        return self.fc(x * self.scale + torch.arange(x.shape[1]))


class Tied(nn.Module):
    """Has one weight under two names, and one that is not contiguous."""

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 6, 3, stride=2)
        self.second, self.third = nn.Conv2d(6, 6, 3, stride=2), nn.Conv2d(6, 6, 3)
        self.third.weight = self.second.weight
        self.fc = nn.Linear(6, num_classes)
        self.fc.weight = nn.Parameter(torch.rand(6, num_classes).T)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.third(self.second(self.first(images).relu()).relu()).mean(dim=(2, 3)))


class Failing(nn.Module):
    """Raises in one of the places where code may."""

    def __init__(self, num_classes: int, where: str = "init") -> None:
        super().__init__()
        self.where = where
        self.fc = nn.Linear(3, num_classes)
        if where == "init":
            raise ZeroDivisionError("a fault of this code\nwith a second line")

    def forward(self, images: Tensor) -> Tensor:
        if self.where == "forward":
            raise KeyError("missing")
        return self.fc(images.mean(dim=(2, 3)))


def built(classes: int = 10, **options: Any) -> nn.Module:
    """Build by a function that names nothing as kdzoo does."""
    return Plain(classes, **options)


def number(num_classes: int) -> int:
    return num_classes


constant, partly = 3, partial(Plain, 4)

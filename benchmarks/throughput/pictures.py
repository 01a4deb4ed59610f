"""A benchmark's images as other loops read them: one picture at a time, through torchvision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from PIL import Image
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from kdzoo.data import Dataset
from kdzoo.data.views import Views

B = TypeVar("B")


class Pictures(TorchDataset[tuple[torch.Tensor, int]]):
    """Training images as pictures with the benchmark's views.

    Args:
        data: the benchmark's.
        views: what is done to an image; those of whole pictures in files are not.
    """

    def __init__(self, data: Dataset, views: Views) -> None:
        images: Any = data.train.images
        self._pictures = [Image.fromarray(image.transpose(1, 2, 0).squeeze()) for image in images]
        self._labels = data.train.labels.tolist()
        self._view = transforms.Compose(_steps(data, views))

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._view(self._pictures[index]), self._labels[index]


def _steps(data: Dataset, views: Views) -> list[Any]:
    size = views.output_size(data.size)
    mean, std = data.statistics
    return [
        *([transforms.Resize(size)] if views.resize is not None else []),
        *([transforms.RandomCrop(size, views.crop_padding)] if views.crop_padding else []),
        *([transforms.RandomHorizontalFlip()] if views.flip else []),
        *([transforms.RandomRotation(views.rotation)] if views.rotation else []),
        transforms.ToTensor(),
        transforms.Normalize(mean, std),
    ]


def endless(loader: Iterable[B]) -> Iterator[B]:
    """Read a loader epoch after epoch."""
    while True:
        yield from loader

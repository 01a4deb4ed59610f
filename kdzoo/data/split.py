"""Parts and statistics of a training set: the same for every seed of a run."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kdzoo.checks import Interval, UsageError, usage
from kdzoo.data.base import Dataset, Images, Split
from kdzoo.data.order import Indices, shuffled_classes
from kdzoo.keys import key


def stratified(labels: npt.ArrayLike, fraction: float, stream: int) -> tuple[Indices, Indices]:
    """Part samples so that every class gives the same share, rounded, and has at least one on each side.

    Args:
        labels: [N] class numbers; every class has two samples or more.
        fraction: share of the second part, above 0 and below 1.
        stream: a key.

    Returns:
        Indices of the first and of the second part, each in ascending order.
    """
    first, second = [], []
    for members in shuffled_classes(labels, stream):
        share = min(max(round(fraction * len(members)), 1), len(members) - 1)
        second.append(members[:share])
        first.append(members[share:])
    return np.sort(np.concatenate(first)), np.sort(np.concatenate(second))


def split_validation(dataset: Dataset, fraction: float) -> Dataset:
    """Take validation images off the training images, by class and a constant key: the same for all seeds.

    Args:
        dataset: as it was loaded, without validation images.
        fraction: share of the training images to take; 0 takes none.

    Returns:
        The data set with a smaller `train` and a `validation`; for 0 the data set itself.

    Raises:
        UsageError: the fraction is not in [0, 1), a class is too small, or there is a validation part.
    """
    who = f"data set {dataset.name}"
    expected = Interval(0, 1, open_high=True)
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or fraction not in expected:
        raise usage(who, "validation fraction", f"a number {expected}", fraction, "0 takes none.")
    if fraction == 0:
        return dataset
    if dataset.validation is not None:
        raise UsageError(f"{who}: it has a validation part already. Use fraction 0.")
    images, labels = dataset.train.images, dataset.train.labels
    numbers, counts = np.unique(labels, return_counts=True)
    if len(counts) == 0 or counts.min() < 2:
        small = [dataset.classes[n] for n in numbers[counts < 2]]
        raise usage(who, "training set", "two images of each class or more", small, "Use fraction 0.")
    kept, taken = stratified(labels, fraction, key(0, "validation"))
    train, validation = (Split(images[part], labels[part], part) for part in (kept, taken))
    return replace(dataset, train=train, validation=validation)


def channel_statistics(images: Images) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Find mean and population standard deviation of each channel of pixels / 255, from exact integer sums.

    Args:
        images: [N, C, H, W] uint8, the training images.

    Returns:
        Means and standard deviations, C of each. A constant channel has the standard deviation 1, so that
        normalising makes it 0.
    """
    means, deviations = [], []
    for channel in np.moveaxis(images, 1, 0):
        # Pixels are counted by their level, in pieces, because bincount copies what it counts to int64.
        levels = np.sum([np.bincount(piece.ravel(), minlength=256) for piece in _pieces(channel)], axis=0)
        # Python's integers, because the products below pass 2^63.
        counts = [int(n) for n in levels]
        total = sum(counts)
        first = sum(n * level for level, n in enumerate(counts))
        second = sum(n * level * level for level, n in enumerate(counts))
        means.append(first / (255 * total))
        deviations.append(math.sqrt(total * second - first * first) / (255 * total) or 1.0)
    return tuple(means), tuple(deviations)


def _pieces(channel: npt.NDArray[np.uint8], size: int = 2048) -> list[npt.NDArray[np.uint8]]:
    return [channel[start : start + size] for start in range(0, len(channel), size)]

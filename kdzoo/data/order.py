"""In which order samples come, and which of a class are drawn: pure functions of a key."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kdzoo.keys import hashes, key, permutation

Indices = npt.NDArray[np.int64]


def epoch_order(seed: int, epoch: int, count: int) -> Indices:
    """Give the order of the samples in one epoch, the same for all members of a seed.

    Args:
        seed: the run's seed.
        epoch: counts from 0.
        count: number of samples.

    Returns:
        [count], each of 0..count-1 once.
    """
    return permutation(key(seed, "order", epoch), count)


def shuffled_classes(labels: npt.ArrayLike, stream: int) -> list[Indices]:
    """Shuffle each class by itself: what happens to one depends on the stream, its number and its size alone.

    Args:
        labels: [N] class numbers.
        stream: a key.

    Returns:
        For each class that occurs, in ascending order, the indices of its samples in keyed order.
    """
    values = np.asarray(labels)
    shuffled = []
    for number in np.unique(values):
        members = np.flatnonzero(values == number).astype(np.int64)
        shuffled.append(members[permutation(int(hashes(stream, [number])[0]), len(members))])
    return shuffled


def draw_per_class(labels: npt.ArrayLike, per_class: int, stream: int) -> Indices:
    """Draw samples of each class without replacement; a smaller draw is the beginning of a larger one.

    Args:
        labels: [N] class numbers.
        per_class: how many of each class; a class that has fewer gives all.
        stream: a key.

    Returns:
        Indices into `labels`, class after class in ascending order, each class in the order of its draw.
    """
    drawn = [members[:per_class] for members in shuffled_classes(labels, stream)]
    return np.concatenate(drawn) if drawn else np.empty(0, np.int64)

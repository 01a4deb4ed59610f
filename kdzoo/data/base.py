"""What a data set is: uint8 arrays in memory, class names, and a fingerprint of their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdzoo.checks import KdzooError, checked, options_of, usage
from kdzoo.data.picture_files import PictureFiles
from kdzoo.data.places import shown
from kdzoo.registry import DATASETS

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

LONGEST_NAME = 1000  # characters of a class name
MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Split:
    """Images of one purpose.

    Attributes:
        images: [N, C, H, W] uint8, or files of pictures that are decoded as they are needed.
        labels: [N] int64 class numbers.
        positions: [N] int64, of a part of the training images: where each stood in the data set as it was
            loaded. None where nothing was taken off.
    """

    images: Images | PictureFiles
    labels: Labels
    positions: Labels | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A data set in memory, or in a file that is mapped into it.

    Attributes:
        name: as registered.
        train: what networks are trained on.
        test: what accuracies are measured on.
        classes: class names, in the order of the class numbers.
        validation: a part taken off the training images (`split_validation`), None without.
        warnings: what a reader of the results must know about this copy of the data.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    validation: Split | None = None
    warnings: tuple[str, ...] = field(default=())

    @property
    def channels(self) -> int:
        """Channels of an image: 1 for grey, 3 for colour."""
        return int(self.train.images.shape[1])

    @property
    def size(self) -> int:
        """Height and width of an image in pixels."""
        return int(self.train.images.shape[2])

    @property
    def loaded(self) -> int:
        """Training images as they were loaded, before validation images were taken off them."""
        taken = self.validation if self.train.positions is not None else None
        return len(self.train) + len(taken or ())

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every array, label and class name (SHA-256, 64 hexadecimal digits); of pictures that stay
        in their files, the names and the hashes of their contents."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for split in (self.train, self.test, self.validation):
            if split is not None:
                for array in (split.images, split.labels):
                    digest.update(f"{array.dtype.str}{array.shape}".encode())
                    if isinstance(array, PictureFiles):
                        digest.update(array.identity())
                    else:
                        digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @cached_property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Means and standard deviations of the channels of the training images (`channel_statistics`); of
        pictures that stay in their files, ImageNet's."""
        from kdzoo.data.split import channel_statistics

        images = self.train.images
        return images.statistics if isinstance(images, PictureFiles) else channel_statistics(images)

    def known(self, fingerprint: str, statistics: Sequence[Sequence[float]]) -> Dataset:
        """Take what was computed of this content before, so that it is not computed again.

        What is made from this data set, by `dataclasses.replace`, computes its own.

        Args:
            fingerprint: of exactly these arrays and class names.
            statistics: of exactly these training images.

        Returns:
            The data set itself.
        """
        means, deviations = map(tuple, statistics)
        # Where functools.cached_property looks first; the fields stay frozen.
        vars(self).update(fingerprint=fingerprint, statistics=(means, deviations))
        return self


def fault_of_names(names: Sequence[str]) -> str | None:
    """Say why class names cannot be kept beside a trained student (`kdzoo.results.sheet`); None if they can.

    Args:
        names: texts.
    """
    if len(names) > MOST_CLASSES:
        return f"there are {len(names):,}, and {MOST_CLASSES:,} are the most"
    for place, name in enumerate(names):
        if not 0 < len(name) <= LONGEST_NAME:
            return f"that of class {place} has {len(name):,} characters, and must have 1 to {LONGEST_NAME:,}"
        if any("\ud800" <= character <= "\udfff" for character in name):
            return f"that of class {place} has lone surrogates, which no file can hold: {name[:40]!r}"
    return None


def load_dataset(name: str, root: Path | None = None, options: Mapping[str, object] | None = None) -> Dataset:
    """Load a data set by its registered name.

    Args:
        name: a name of `kdzoo list datasets`.
        root: where the user keeps its files; None looks in the usual places.
        options: the data set's own keyword arguments.

    Raises:
        UsageError: an unknown name, or missing, damaged or unreadable files: which were looked for, where,
            and how to get them.
        StorageError: what was decoded cannot be kept.
    """
    load: Callable[..., Dataset] = DATASETS.find(name)
    who = f"data set {name}"
    values = checked(who, options_of(load), options or {})
    try:
        return load(root, **values)
    except KdzooError:
        raise
    except OSError as error:
        place = str(error.filename or root)
        raise usage(who, shown(place), "readable", error.strerror or str(error)) from error

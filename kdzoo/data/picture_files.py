"""Pictures that stay in their files, because together they are larger than the memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from kdzoo.data.contents import Rows, open_known
from kdzoo.data.trees import File

Channels = Literal["rgb", "grey"]

# Means and standard deviations of ImageNet's training images, of pixels from 0 to 1, as its pretrained
# networks expect them (torchvision's reference recipes); a pass over all pictures for their own would take
# hours.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# ITU-R 601-2, by which PIL makes a picture grey; the deviation as if the channels rose and fell together.
_GREY = (0.299, 0.587, 0.114)
IMAGENET_GREY = tuple((sum(w * v for w, v in zip(_GREY, values, strict=True)),) for values in IMAGENET)


class PictureFiles:
    """The pictures of a split in their files, where other data sets have an array [N, C, H, W].

    Args:
        root: folder of the files.
        names: [N] their names from there, as bytes.
        marks: [N, 16] by what a change of each is seen (`File.mark`).
        hashes: [N, 32] of their contents (`content_hashes`).
        channels: rgb or grey.
        size: height and width of an image in pixels.
        short_side: to which a picture is brought, in pixels, before its centre is cut out.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self, root: Path, names: npt.NDArray[np.bytes_], marks: Rows, hashes: Rows, channels: Channels,
        size: int, short_side: int,
    ) -> None:  # fmt: skip
        self.root = root
        self.channels: Channels = channels
        self.size = size
        self.short_side = short_side
        self._names = names
        self._marks = marks
        self._hashes = hashes

    @classmethod
    def of(
        cls, root: Path, files: Sequence[File], hashes: Rows, *, channels: Channels, size: int,
        short_side: int,
    ) -> PictureFiles:  # fmt: skip
        """Take files of a tree.

        Args:
            root: of the tree.
            files: in the order of the split.
            hashes: [N, 32] of their contents.
            channels: rgb or grey.
            size: height and width of an image in pixels.
            short_side: in pixels.
        """
        names = np.array([os.fsencode(file.name) for file in files], dtype=np.bytes_)
        marks = np.frombuffer(b"".join(file.mark for file in files), np.uint8).reshape(-1, 16)
        return cls(root, names, marks, hashes, channels, size, short_side)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, chosen: Any) -> PictureFiles:
        """Give some of the pictures, as an array gives some of its rows."""
        names, marks, hashes = self._names[chosen], self._marks[chosen], self._hashes[chosen]
        return PictureFiles(self.root, names, marks, hashes, self.channels, self.size, self.short_side)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape that the images have together, [N, C, H, W]."""
        return len(self), 1 if self.channels == "grey" else 3, self.size, self.size

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """ImageNet's means and standard deviations, which networks for such data are made for."""
        mean, std = IMAGENET_GREY if self.channels == "grey" else IMAGENET
        return mean, std

    def identity(self) -> bytes:
        """Give what tells these pictures from others: names, hashes of their contents, and how they are
        seen."""
        settings = f"{self.channels}\0{self.size}\0{self.short_side}\0".encode()
        return settings + b"\0".join(self._names.tolist()) + b"\0" + self._hashes.tobytes()

    def path(self, index: int) -> bytes:
        """Give the place of a picture."""
        return os.path.join(os.fsencode(self.root), self._names[index])

    def open(self, index: int) -> BinaryIO:
        """Open a picture, as long as its file has the content that the fingerprint is of.

        Raises:
            OSError: it is gone, another one, or leads out of the folder.
        """
        mark, content = self._marks[index].tobytes(), self._hashes[index].tobytes()
        return open_known(os.fsencode(self.root), self._names[index], mark, content)

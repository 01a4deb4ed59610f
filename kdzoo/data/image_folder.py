"""Anyone's images in class folders, of any size and kind, brought to one size."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
from PIL import Image

from kdzoo.checks import Interval, Problems, UsageError
from kdzoo.data.base import Dataset, Images, Split
from kdzoo.data.class_folders import ClassFolders, class_folders, remarks
from kdzoo.data.contents import content_hashes
from kdzoo.data.decoding import decoded
from kdzoo.data.mapped import Content, Source, kept
from kdzoo.data.picture_files import Channels, PictureFiles
from kdzoo.data.pictures import Fit, fitted
from kdzoo.data.places import few, shown
from kdzoo.data.trees import File, Folder
from kdzoo.registry import DATASETS

WHO = "data set image_folder"
Size = Annotated[int, Interval(low=1, high=2048)]
TESTS = ("test", "val", "validation", "valid")
HOW = {
    "crop": "the short side brought to {size}, the centre cut out",
    "squash": "both sides brought to {size}, without regard to their ratio",
}


@DATASETS.register("image_folder")
def image_folder(
    root: Path | None,
    *,
    size: Size = 64,
    channels: Channels = "rgb",
    fit: Fit = "crop",
    stream: bool = False,
) -> Dataset:
    """Load images from train/CLASS and test/CLASS (or val/, validation/, valid/), in folders of any depth.

    Any size and mode goes: grey, 16 bits, palette, transparent (put on white), CMYK; EXIF orientation is
    applied. Classes are in alphabetical order, images in that of their names. Decoded once, they stay in
    kdzoo's cache; or they stay in their files, for data that does not fit in memory (`stream`): then workers
    decode them in every epoch, the short side is brought to 8/7 of `size` before the centre is cut out, as
    torchvision's recipes do, and ImageNet's means and deviations normalise them. At the first start every
    file is read once, because its content is what records know the data by; later starts read what changed.

    Args:
        root: the folder that has train/ and test/.
        size: height and width of the images, in pixels. Default: ours, Tiny ImageNet's.
        channels: rgb, or grey for one channel.
        fit: crop brings the short side to `size` and cuts the centre out; squash brings both sides to it.
        stream: whether pictures stay in their files.

    Raises:
        UsageError: folders, classes or images are missing, unreadable or not safe to read.
    """
    listing, fitting = list_images(root), Fitting(size, channels, fit)
    if stream:
        return _streamed(listing, size, channels, fit)
    train, test, files = listing.train, listing.test, listing.files

    def make() -> Content:
        shape = (1 if channels == "grey" else 3, size, size)
        images = decoded(WHO, listing.tree, files, fitting)
        told = partial(fitting.warnings, len(files))
        return Content(listing.classes, train.labels, test.labels, shape, images, told)

    source = Source("image_folder", listing.place, files, dict(size=size, channels=channels, fit=fit))
    return kept(source, make, listing.warnings)


@dataclass(frozen=True)
class Listing:
    """The images of a folder, none of them opened.

    Attributes:
        place: the folder.
        tree: opens its files.
        classes: names, in plain text.
        train: training images.
        test: images to measure on.
        warnings: what a reader of the results must know.
    """

    place: Path
    tree: Folder
    classes: tuple[str, ...]
    train: ClassFolders
    test: ClassFolders
    warnings: tuple[str, ...]

    @property
    def files(self) -> tuple[File, ...]:
        """All training images and then all test images."""
        return (*self.train.files, *self.test.files)


def list_images(root: Path | None) -> Listing:
    """List a folder's images and classes.

    Args:
        root: the folder that has train/ and test/.

    Raises:
        UsageError: folders, classes or images are missing, or links are not safe.
    """
    if root is None:
        raise UsageError(f"{WHO}: name the folder that has train/ and test/ by --data-root.")
    place = Path(root).expanduser()
    tested, warnings = _tested(place)
    tree, problems = Folder(WHO, place), Problems()
    splits: dict[str, ClassFolders] = {}
    for split in ("train", tested):
        with problems:
            classes = splits["train"].classes if "train" in splits else None
            splits[split] = class_folders(WHO, tree, split, classes)
    problems.raise_all()
    names = _names(splits["train"].classes)
    return Listing(place, tree, names, splits["train"], splits[tested], (*warnings, *remarks(splits)))


def _streamed(listing: Listing, size: int, channels: Channels, fit: Fit) -> Dataset:
    """Leave the pictures in their files; they are read once, for the hashes of their contents, and none of
    them is decoded yet."""
    if fit != "crop":
        raise UsageError(f"{WHO}: streamed pictures are cut, not squashed. Leave fit or stream out.")
    empty = [listing.tree.told(file.name) for file in listing.files if not file.size]
    if empty:
        raise UsageError(f"{WHO}: empty files: {few(empty)}. Replace them or take them away.")
    short_side = round(size * 8 / 7)
    pictures = PictureFiles.of(
        listing.place, listing.files, content_hashes(WHO, listing.place, listing.files), channels=channels,
        size=size, short_side=short_side,
    )  # fmt: skip
    count = len(listing.train.files)
    train, test = Split(pictures[:count], listing.train.labels), Split(pictures[count:], listing.test.labels)
    how = HOW["crop"].format(size=short_side)
    told = (
        f"Images stay in their files and are resized to {size}x{size} as they are decoded: {how}; random "
        "crops, where views have them, are resized by themselves."
    )
    return Dataset("image_folder", train, test, listing.classes, warnings=(*listing.warnings, told))


def labelled_pictures(
    folder: Path, classes: Sequence[str], *, size: int, channels: Channels, fit: Fit, short_side: int
) -> Split:
    """Read the pictures of class folders for somebody who knows some classes already.

    Args:
        folder: has a folder for each class, or for some of them.
        classes: names of all classes, in the order of their numbers.
        size: as in `fitted`, like all that follows.
        channels: rgb or grey.
        fit: crop or squash.
        short_side: in pixels.

    Raises:
        UsageError: a class folder of another name, none at all, or pictures that cannot be read.
    """
    who = f"folder {shown(folder)}"
    if not folder.is_dir():
        raise UsageError(f"{who}: there is no such folder.")
    tree = Folder(who, folder)
    found = class_folders(who, tree, "")
    names = [shown(name) for name in found.classes]
    unknown = [repr(name) for name in names if name not in classes]
    if unknown:
        raise UsageError(
            f"{who}: it must have folders named like the {len(classes)} classes ({few(classes, 4)}), got "
            f"{few(unknown)}.{_below(folder, classes)}"
        )

    def convert(picture: Image.Image) -> Images:
        return fitted(picture, size=size, channels=channels, fit=fit, short_side=short_side)

    images = np.concatenate(list(decoded(who, tree, found.files, convert)))
    numbers = np.array([classes.index(name) for name in names], dtype=np.int64)
    return Split(images, numbers[found.labels])


def _below(folder: Path, classes: Sequence[str]) -> str:
    """Ask for the part of a data set where its root was named."""
    parts = [part for part in ("test", "val") if any((folder / part / name).is_dir() for name in classes)]
    return f" Did you mean {shown(folder / parts[0])}?" if parts else ""


class Fitting:
    """Fits pictures and counts those that had another size.

    Args:
        size: height and width of an image.
        channels: as `fitted` takes them.
        fit: the same.
    """

    def __init__(self, size: int, channels: Channels, fit: Fit) -> None:
        self._size, self._channels, self._fit = size, channels, fit
        self._resized, self._lock = 0, threading.Lock()

    def __call__(self, picture: Image.Image) -> Images:
        """Fit one picture; threads may do so at the same time."""
        if picture.size != (self._size, self._size):
            with self._lock:
                self._resized += 1
        return fitted(picture, size=self._size, channels=self._channels, fit=self._fit)

    def warnings(self, count: int) -> list[str]:
        """Say how many of so many pictures were resized, and how."""
        if not self._resized:
            return []
        how = HOW[self._fit].format(size=self._size)
        return [f"{self._resized:,} of {count:,} images were resized to {self._size}x{self._size}: {how}."]


def _tested(place: Path) -> tuple[str, list[str]]:
    """Choose the folder that is tested on: test/, or a val/ where there is none or its images have no
    classes."""
    if not (place / "train").is_dir():
        raise UsageError(
            f"{WHO}: {shown(place)} must have train/ and test/ (or val/) with a folder of images for each "
            f"class, {_found(place)}. Name the folder that has them by --data-root."
        )
    there = [name for name in TESTS if (place / name).is_dir()]
    if not there:
        raise UsageError(
            f"{WHO}: {shown(place)} must have test/ or val/ beside train/, {_found(place)}. Put a part of "
            f"the images aside to test on."
        )
    flat = [name for name in there if not Folder(WHO, place).level(name).folders]
    chosen = next((name for name in there if name not in flat), there[0])
    warnings = []
    if chosen != there[0]:
        warnings.append(f"{there[0]}/ has no class folders; accuracies are of {chosen}/.")
    left = [f"{name}/" for name in there if name != chosen and name not in flat]
    if left:
        warnings.append(f"Accuracies are of {chosen}/; {few(left)} is left alone.")
    return chosen, warnings


def _found(place: Path) -> str:
    try:
        names = sorted(path.name for path in place.iterdir() if path.is_dir())
    except OSError as error:
        return f"got none ({error.strerror or error})"
    return f"got {few([repr(shown(name)) for name in names], 6)}" if names else "got no folders"


def _names(folders: Sequence[str]) -> tuple[str, ...]:
    """Give class names in plain text."""
    names = tuple(map(shown, folders))
    if len(set(names)) < len(names):
        raise UsageError(f"{WHO}: class folders must have names of plain text, got {few(names)}.")
    return names

"""CIFAR-10 and CIFAR-100 as they are published (pickled batches, packed or not) or as class folders."""

from __future__ import annotations

import http.client
import os
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from kdzoo.checks import Problems, UsageError
from kdzoo.data.archives import tar_members
from kdzoo.data.base import Dataset, Images, Labels
from kdzoo.data.class_folders import ClassFolders, class_folders, remarks
from kdzoo.data.decoding import decoded
from kdzoo.data.mapped import Content, Source, kept
from kdzoo.data.pickles import Unreadable, as_array, as_text, read_pickle
from kdzoo.data.pictures import Unfit, pixels
from kdzoo.data.places import few, places, shown
from kdzoo.data.trees import File, Folder, join

SHAPE = (3, 32, 32)
LARGEST = (
    400_000_000  # bytes of a batch: CIFAR-100's training images are 155 MB, as Python 3 pickles them 225
)
PUBLISHED = {"train": 50_000, "test": 10_000}
DOWNLOAD = "`--cfg-options data.download=True`"


@dataclass(frozen=True)
class Cifar:
    """What the two data sets differ in.

    Attributes:
        name: as registered.
        title: as published.
        folder: of the unpacked archive.
        archive: name of the archive.
        train: names of the training batches.
        test: name of the test batch.
        meta: name of the file with the class names.
        labels: key of the labels in a batch.
        names: key of the class names in the meta file.
        classes: how many there are.
        torchvision: name of torchvision's data set, which knows where the archive is.
    """

    name: str
    title: str
    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str
    classes: int
    torchvision: str

    @property
    def who(self) -> str:
        """Name for messages."""
        return f"data set {self.name}"

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files that are read."""
        return (*self.train, self.test, self.meta)


def load(kind: Cifar, root: Path | None, download: bool) -> Dataset:
    """Load one of the two from the first of its forms that is found whole.

    Args:
        kind: which one.
        root: the user's folder, or None for kdzoo's cache.
        download: fetch the archive if there is none.

    Raises:
        UsageError: nothing is found (what, where, how to get it), or it is damaged or not safe to read.
        StorageError: the decoded images cannot be kept.
    """
    [place] = places(root)
    found = _find(kind, place)
    if found is None and download:
        _download(kind, place)
        found = _find(kind, place)
    if found is None:
        raise _missing(kind, place)
    return found


def _find(kind: Cifar, place: Path) -> Dataset | None:
    tree = Folder(kind.who, place)
    for folder in (kind.folder, ""):
        files = [tree.file(join(folder, name)) for name in kind.files]
        if all(files):
            return _from_batches(kind, place, [file for file in files if file])
    for path in (place / kind.archive, place):
        if path.is_file():
            return _from_archive(kind, path)
    if all((place / split).is_dir() for split in PUBLISHED):
        return _from_folders(kind, place)
    return None


def _from_batches(kind: Cifar, place: Path, files: Sequence[File]) -> Dataset:
    tree = Folder(kind.who, place)

    def make() -> Content:
        problems, batches = Problems(), {}
        for name, file in zip(kind.files, files, strict=True):
            with problems, tree.open(file) as stream:
                batches[name] = _pickled(kind, name, stream, file.size, tree.told(file.name))
        problems.raise_all()
        return _content(kind, batches, shown(place))

    return kept(Source(kind.name, place, files), make)


def _from_archive(kind: Cifar, path: Path) -> Dataset:
    found = Folder(kind.who, path.parent).file(path.name)
    if found is None:
        raise _missing(kind, path.parent)

    def make() -> Content:
        batches = {}
        for member, stream, size in tar_members(kind.who, path, largest=LARGEST):
            folder, _, name = member.rpartition("/")
            if folder == kind.folder and name in kind.files:
                batches[name] = _pickled(kind, name, stream, size, f"{member} in {shown(path)}")
        lacks = [name for name in kind.files if name not in batches]
        if lacks:
            raise UsageError(f"{kind.who}: {shown(path)} has no {kind.folder}/{few(lacks)}. {_again(kind)}")
        return _content(kind, batches, shown(path))

    return kept(Source(kind.name, path.parent, [found]), make)


def _from_folders(kind: Cifar, place: Path) -> Dataset:
    tree, problems = Folder(kind.who, place), Problems()
    splits: dict[str, ClassFolders] = {}
    with problems:
        splits["train"] = class_folders(kind.who, tree, "train")
        if len(splits["train"].classes) != kind.classes:
            raise UsageError(
                f"{kind.who}: {tree.told('train')} must have {kind.classes} class folders, got "
                f"{len(splits['train'].classes)}. The data set image_folder reads those of other images."
            )
    with problems:
        splits["test"] = class_folders(
            kind.who, tree, "test", splits["train"].classes if "train" in splits else None
        )
    problems.raise_all()
    train, test = splits["train"], splits["test"]
    files = (*train.files, *test.files)
    told = [*remarks(splits), *_other_counts(kind, {n: len(s.labels) for n, s in splits.items()})]
    classes = tuple(map(shown, train.classes))
    return kept(
        Source(kind.name, place, files),
        lambda: Content(classes, train.labels, test.labels, SHAPE, decoded(kind.who, tree, files, _exact)),
        told,
    )


def _exact(picture: Image.Image) -> Images:
    if picture.size != SHAPE[1:] or picture.mode != "RGB":
        raise Unfit(f"must be 32x32 RGB, is {picture.width}x{picture.height} {picture.mode}")
    return pixels(picture, "rgb")


def _pickled(kind: Cifar, name: str, stream: BinaryIO, size: int, where: str) -> Mapping[str, Any]:
    """Read a batch and check it, or read the meta file's class names."""
    try:
        if size > LARGEST:
            raise Unreadable(f"it has {size:,} bytes, and {LARGEST:,} are the most")
        loaded = read_pickle(stream, size)
        if name == kind.meta:
            return {"names": _names(kind, loaded.get(kind.names))}
        images = _images(loaded)
        return {"images": images, "labels": _labels(kind, loaded.get(kind.labels), len(images))}
    except Unreadable as error:
        raise UsageError(f"{kind.who}: {where} is damaged: {shown(str(error))}. {_again(kind)}") from error


def _names(kind: Cifar, noted: object) -> tuple[str, ...]:
    names = tuple(map(as_text, noted)) if type(noted) is list else ()
    if len(set(names)) != kind.classes or len(names) != kind.classes:
        raise Unreadable(f"it must have {kind.classes} different class names, and has {len(set(names))}")
    return tuple(map(shown, names))


def _images(batch: Mapping[str, Any]) -> Images:
    array = as_array(batch.get("data"))
    if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != 3072:
        raise Unreadable(f"its images must be uint8 of shape [n, 3072], and are {array.dtype} {array.shape}")
    images: Images = array.astype(np.uint8, copy=False).reshape(-1, *SHAPE)
    return images


def _labels(kind: Cifar, noted: object, count: int) -> Labels:
    fault = Unreadable(f"its {kind.labels} must be integers in [0, {kind.classes - 1}]")
    if type(noted) is list:
        if not all(type(label) is int and 0 <= label < kind.classes for label in noted):
            raise fault
        labels = np.array(noted, np.int64)
    else:
        labels = as_array(noted).astype(np.int64)
    if labels.shape != (count,):
        raise Unreadable(f"it must have one label for each of its {count} images, and has {labels.shape}")
    if labels.min() < 0 or labels.max() >= kind.classes:
        raise fault
    return labels


def _content(kind: Cifar, batches: Mapping[str, Mapping[str, Any]], where: str) -> Content:
    """Put the batches together and hold that no class is without images."""
    classes: tuple[str, ...] = batches[kind.meta]["names"]
    labels = {
        "train": np.concatenate([batches[name]["labels"] for name in kind.train]),
        "test": batches[kind.test]["labels"],
    }
    for split, numbers in labels.items():
        counts = np.bincount(numbers, minlength=len(classes)).tolist()
        lacks = [name for name, count in zip(classes, counts, strict=True) if not count]
        if lacks:
            raise UsageError(f"{kind.who}: {where} has no {split} image of {few(lacks)}. {_again(kind)}")

    def images() -> Generator[Images, None, None]:
        for name in (*kind.train, kind.test):
            yield batches[name]["images"]

    told = _other_counts(kind, {split: len(numbers) for split, numbers in labels.items()})
    return Content(classes, labels["train"], labels["test"], SHAPE, images(), lambda: told)


def _other_counts(kind: Cifar, counts: Mapping[str, int]) -> list[str]:
    return [
        f"This copy has {count:,} {split} images; {kind.title} has {PUBLISHED[split]:,}."
        for split, count in counts.items()
        if count != PUBLISHED[split]
    ]


def _again(kind: Cifar) -> str:
    return f"For a good copy, take it away and add {DOWNLOAD}."


def _missing(kind: Cifar, place: Path) -> UsageError:
    """Say what was looked for and how to get it; of a folder that has some of the files, what it lacks."""
    partly = ""
    for folder in (place / kind.folder, place):
        lacks = [name for name in kind.files if not (folder / name).is_file()]
        if len(lacks) < len(kind.files):
            partly = f" ({shown(folder)} lacks {few(lacks)})"
            break
    return UsageError(
        f"{kind.who}: no {kind.archive}, no folder {kind.folder} and no class folders in train/ and test/ in "
        f"{shown(place)}{partly}. Name the folder that has them by --data-root, or add {DOWNLOAD}."
    )


def _download(kind: Cifar, place: Path) -> None:
    """Fetch the archive alone: torchvision would also unpack it, and unpickle what is in it."""
    import torchvision.datasets

    published = getattr(torchvision.datasets, kind.torchvision)
    try:
        place.mkdir(parents=True, exist_ok=True)
        # Under its name when it is whole: an interrupted download must not be taken for the archive.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=place) as folder:
            torchvision.datasets.utils.download_url(published.url, folder, kind.archive, published.tgz_md5)
            os.replace(Path(folder, kind.archive), place / kind.archive)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(
            f"{kind.who}: the download to {shown(place)} failed: {reason}\n"
            f"{kind.who}: try again, or put {kind.archive} into {shown(place)} by hand."
        ) from error

"""Tiny ImageNet: 100,000 and 10,000 colour images of 64x64 pixels in two hundred classes, or a part of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kdzoo.checks import Problems, UsageError
from kdzoo.data.archives import Zip
from kdzoo.data.base import Dataset, Images, Labels
from kdzoo.data.decoding import decoded
from kdzoo.data.mapped import Content, Source, kept
from kdzoo.data.pictures import SUFFIXES, Unfit, pixels
from kdzoo.data.places import few, places, shown
from kdzoo.data.trees import File, Folder, Tree, files_below, join, read_lines
from kdzoo.registry import DATASETS

WHO = "data set tiny_imagenet"
NAME = "tiny-imagenet-200"
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
CLASSES, TRAIN, VAL = 200, 500, 50  # as published; the images are of each class
SIZE = 64
LARGEST = 16_000_000  # bytes of a file in the archive: words.txt has 3 MB, an image a few thousand


@DATASETS.register("tiny_imagenet")
def tiny_imagenet(root: Path | None) -> Dataset:
    """Load Tiny ImageNet, or a part of it, in its own layout; its validation part is what is tested on.

    It has wnids.txt, words.txt, train/WNID/images and val/images with val_annotations.txt. Images straight in
    train/WNID, and validation images sorted into val/WNID or val/WNID/images, are found as well. Classes are
    in the order of their WordNet numbers and called by their first word; images are in the order of their
    names, class by class, whatever the layout. Decoded once, they stay in kdzoo's cache.

    Args:
        root: the folder tiny-imagenet-200, or a folder that holds it, unpacked or as tiny-imagenet-200.zip
            (which stays packed). None looks in kdzoo's cache.

    Raises:
        UsageError: files are missing, damaged or not safe to read.

    Source: Le and Yang 2015, "Tiny ImageNet Visual Recognition Challenge", Stanford CS 231N,
        http://vision.stanford.edu/teaching/cs231n/reports/2015/pdfs/yle_project.pdf.
    """
    [place] = places(root)
    for base in ("", NAME):
        if (place / base / "wnids.txt").exists():
            return _unpacked(place, base)
    for path in (place / f"{NAME}.zip", place):
        if path.is_file():
            return _packed(path)
    raise UsageError(
        f"{WHO}: no wnids.txt, no folder {NAME} and no {NAME}.zip in {shown(place)}. Name the folder that "
        f"has one of them by --data-root. The whole set is {URL}."
    )


@dataclass(frozen=True)
class Listing:
    """The images of a copy of Tiny ImageNet.

    Attributes:
        wnids: WordNet numbers of the classes, in alphabetical order.
        words: names of the classes.
        train: training images, by class and name.
        val: validation images, the same.
        labels: class numbers of the training images and of the validation images.
        texts: the other files that were read.
        warnings: what is different from the published set.
    """

    wnids: tuple[str, ...]
    words: tuple[str, ...]
    train: tuple[File, ...]
    val: tuple[File, ...]
    labels: tuple[Labels, Labels]
    texts: tuple[File, ...]
    warnings: tuple[str, ...]


def _unpacked(place: Path, base: str) -> Dataset:
    tree = Folder(WHO, place)
    listing = list_images(tree, base)
    source = Source("tiny_imagenet", place, (*listing.texts, *listing.train, *listing.val))
    return kept(source, lambda: _content(tree, listing))


def _packed(path: Path) -> Dataset:
    found = Folder(WHO, path.parent).file(path.name)

    def make() -> Content:
        tree = Zip(WHO, path, largest=LARGEST, base=NAME)
        return _content(tree, list_images(tree, ""))

    return kept(Source("tiny_imagenet", path.parent, [found] if found else []), make)


def _content(tree: Tree, listing: Listing) -> Content:
    images = decoded(WHO, tree, (*listing.train, *listing.val), _exact)
    return Content(listing.words, *listing.labels, (3, SIZE, SIZE), images, lambda: listing.warnings)


def _exact(picture: Image.Image) -> Images:
    if picture.size != (SIZE, SIZE):
        raise Unfit(f"must be 64x64, is {picture.width}x{picture.height}")
    return pixels(picture, "rgb")


def list_images(tree: Tree, base: str) -> Listing:
    """List the images of a copy of Tiny ImageNet and their classes.

    Args:
        tree: a folder or an archive.
        base: its folder in the tree, "" for the root.

    Raises:
        UsageError: classes, images and annotations do not fit together; all faults, a line each.
    """
    texts = [tree.file(join(base, name)) for name in ("wnids.txt", "words.txt")]
    if texts[0] is None:
        raise UsageError(f"{WHO}: {tree.told(join(base, 'wnids.txt'))} must be a file, got none.")
    wnids = [line.strip() for line in read_lines(WHO, tree, texts[0])]
    twice = [shown(wnid) for wnid, count in Counter(wnids).items() if count > 1]
    if twice or not wnids:
        fault = f"has {few(twice)} twice" if twice else "names no class"
        raise UsageError(f"{WHO}: {tree.told(texts[0].name)} {fault}. It must have a line for each class.")
    wnids.sort()
    problems = Problems()
    train: list[tuple[int, File]] = []
    val: list[tuple[int, File]] = []
    annotations, absent = tree.file(join(base, "val/val_annotations.txt")), 0
    with problems:
        train = _in_folders(tree, join(base, "train"), wnids)
    with problems:
        if _sorted_into_classes(tree, base, wnids):
            # Their script may have left the empty folder behind.
            val, annotations = _in_folders(tree, join(base, "val"), wnids, {"images"}), None
        else:
            val, absent = _annotated(tree, join(base, "val"), annotations, wnids)
    with problems:
        words = _words(wnids, read_lines(WHO, tree, texts[1]) if texts[1] else [])
    problems.raise_all()
    splits = [tuple(file for _, file in sorted(split)) for split in (train, val)]
    labels = [np.array(sorted(number for number, _ in split), np.int64) for split in (train, val)]
    return Listing(
        tuple(wnids), words, splits[0], splits[1], (labels[0], labels[1]),
        tuple(file for file in (*texts, annotations) if file), _warnings(len(wnids), labels, absent),
    )  # fmt: skip


def _in_folders(
    tree: Tree, below: str, wnids: Sequence[str], beside: Set[str] = frozenset()
) -> list[tuple[int, File]]:
    """List images that lie in a folder for each class, each with the number of its class."""
    problems = Problems()
    with problems:
        unknown = [shown(name) for name in tree.level(below).folders if name not in {*wnids, *beside}]
        if unknown:
            raise UsageError(
                f"{WHO}: {tree.told(below)} has folders that are not in wnids.txt: {few(unknown)}. Take them "
                f"away, or complete wnids.txt."
            )
    found = [
        (number, file)
        for number, wnid in enumerate(wnids)
        for file in files_below(tree, join(below, wnid))
        if file.suffix in SUFFIXES
    ]
    with problems:
        _check_classes(tree, below, wnids, [number for number, _ in found])
    problems.raise_all()
    return found


def _sorted_into_classes(tree: Tree, base: str, wnids: Sequence[str]) -> bool:
    """Say whether somebody sorted the validation images into class folders, as many people do."""
    sorted_ones = set(tree.level(join(base, "val")).folders) & set(wnids)
    left = any(file.suffix in SUFFIXES for file in tree.level(join(base, "val/images")).files)
    if sorted_ones and left:
        raise UsageError(
            f"{WHO}: {tree.told(join(base, 'val'))} has images both in images/ and in class folders. Sort "
            f"all of them, or none."
        )
    return bool(sorted_ones)


def _annotated(
    tree: Tree, below: str, annotations: File | None, wnids: Sequence[str]
) -> tuple[list[tuple[int, File]], int]:
    """List the images of val/images by their annotations, and count annotations whose image is not there."""
    if annotations is None:
        raise UsageError(
            f"{WHO}: {tree.told(join(below, 'val_annotations.txt'))} must be a file that names the class of "
            f"each image in {tree.told(join(below, 'images'))}, got none."
        )
    numbers = {wnid: number for number, wnid in enumerate(wnids)}
    classes: dict[str, int] = {}
    faults: dict[str, list[str]] = {}
    for place, line in enumerate(read_lines(WHO, tree, annotations), start=1):
        fields = line.split("\t")
        if len(fields) < 2:
            faults.setdefault("has lines that are no image and class", []).append(f"line {place}")
        elif fields[0] in classes:
            faults.setdefault("has images twice", []).append(shown(fields[0]))
        elif fields[1].strip() not in numbers:
            fault = f"{shown(fields[1])} of {shown(fields[0])}"
            faults.setdefault("has classes that are not in wnids.txt", []).append(fault)
        else:
            classes[fields[0]] = numbers[fields[1].strip()]
    folder = join(below, "images")
    files = {f.name[len(folder) + 1 :]: f for f in tree.level(folder).files if f.suffix in SUFFIXES}
    unknown = [shown(name) for name in files if name not in classes]
    if unknown and not faults:
        faults["lacks images of images/"] = unknown
    problems = Problems()
    for fault, names in faults.items():
        with problems:
            raise UsageError(
                f"{WHO}: {tree.told(annotations.name)} {fault}: {few(names)}. Mend it, or get it "
                f"again from {URL}."
            )
    problems.raise_all()
    found = [(number, files[name]) for name, number in classes.items() if name in files]
    _check_classes(tree, below, wnids, [number for number, _ in found])
    return found, len(classes) - len(found)


def _check_classes(tree: Tree, below: str, wnids: Sequence[str], numbers: Sequence[int]) -> None:
    there = set(numbers)
    empty = [shown(wnid) for number, wnid in enumerate(wnids) if number not in there]
    if empty:
        raise UsageError(
            f"{WHO}: {tree.told(below)} has no image of {few(empty)}. Put some there, or take the class out "
            f"of wnids.txt and of train/ and val/."
        )


def _words(wnids: Sequence[str], lines: Sequence[str]) -> tuple[str, ...]:
    """Call classes by their first word; two of one word by their number as well, and others by it alone."""
    known = {}
    for line in lines:
        wnid, _, words = line.partition("\t")
        known[wnid.strip()] = shown(words.split(",")[0].strip())
    first = [known.get(wnid) or shown(wnid) for wnid in wnids]
    counts = Counter(first)
    return tuple(f"{w} ({wnid})" if counts[w] > 1 else w for w, wnid in zip(first, wnids, strict=True))


def _warnings(classes: int, labels: Sequence[Labels], absent: int) -> tuple[str, ...]:
    counts = [np.bincount(numbers, minlength=classes) for numbers in labels]
    published = [[TRAIN] * CLASSES, [VAL] * CLASSES]
    if [c.tolist() for c in counts] == published:
        return ()
    train, val = (
        f"{c.sum():,} {name} images ({c.min()}{f' to {c.max()}' if c.min() < c.max() else ''} a class)"
        for c, name in zip(counts, ("training", "validation"), strict=True)
    )
    missing = f" Annotated, but not there: {absent:,}." if absent else ""
    return (
        f"This copy has {train} and {val} of {classes} classes; Tiny ImageNet has {TRAIN * CLASSES:,} "
        f"({TRAIN}) and {VAL * CLASSES:,} ({VAL}) of {CLASSES}.{missing}",
    )

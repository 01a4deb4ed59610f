"""Folders whose names are the classes of the images in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdzoo.checks import Problems, UsageError
from kdzoo.data.base import Labels
from kdzoo.data.pictures import SUFFIXES
from kdzoo.data.places import few, shown
from kdzoo.data.trees import File, Tree, files_below, join


@dataclass(frozen=True)
class ClassFolders:
    """The images of one split as they lie in class folders.

    Attributes:
        classes: names of the folders in alphabetical order.
        files: by class, and in a class by name; those of a folder before those of the folders in it.
        labels: [N] class numbers of the files.
        left_out: how many files have a suffix that no image has, by suffix.
        stray: how many images stand beside the class folders.
    """

    classes: tuple[str, ...]
    files: tuple[File, ...]
    labels: Labels
    left_out: Counter[str]
    stray: int


def class_folders(who: str, tree: Tree, below: str, classes: Sequence[str] | None = None) -> ClassFolders:
    """List the class folders of a split and the images in them, at any depth.

    Args:
        who: whose data they are, for messages.
        tree: where.
        below: the split's folder, as "train".
        classes: names of the folders that there must be; None takes what there is.

    Raises:
        UsageError: there are no two class folders, there are others than there must be, or some have no
            image.
    """
    folders, beside = tree.level(below)
    if len(folders) < (2 if classes is None else 1):
        got = f"only {shown(folders[0])!r}" if folders else "none"
        raise UsageError(
            f"{who}: {tree.told(below)} must have a folder for each class with its images, two or more, got "
            f"{got}. Sort the images into such folders."
        )
    problems = Problems()
    with problems:
        same_classes(who, folders, folders if classes is None else classes, tree.told(below))
    files: list[File] = []
    counts = []
    left_out: Counter[str] = Counter()
    for name in folders:
        before = len(files)
        for file in files_below(tree, join(below, name)):
            suffix = file.suffix
            if suffix in SUFFIXES:
                files.append(file)
            else:
                left_out[suffix or "without a suffix"] += 1
        counts.append(len(files) - before)
    empty = [shown(name) for name, count in zip(folders, counts, strict=True) if not count]
    with problems:
        if empty:
            raise UsageError(
                f"{who}: {tree.told(below)} has no image of {few(empty)}. Put images there "
                f"({', '.join(sorted(SUFFIXES))}) or take the folder{'s' if len(empty) > 1 else ''} away."
            )
    problems.raise_all()
    stray = sum(file.suffix in SUFFIXES for file in beside)
    labels = np.repeat(np.arange(len(folders)), counts)
    return ClassFolders(tuple(folders), tuple(files), labels.astype(np.int64), left_out, stray)


def same_classes(who: str, got: Sequence[str], expected: Sequence[str], where: str) -> None:
    """Hold that a split has the classes that it must have.

    Args:
        who: whose data they are, for messages.
        got: names that there are.
        expected: names that there must be.
        where: the split's place.

    Raises:
        UsageError: some are missing or unexpected; they are named.
    """
    there, wanted = set(got), set(expected)
    missing = [shown(name) for name in expected if name not in there]
    extra = [shown(name) for name in got if name not in wanted]
    if missing or extra:
        faults = [f"lacks {few(missing)}"] if missing else []
        faults += [f"has {few(extra)} beside them"] if extra else []
        raise UsageError(
            f"{who}: {where} must have the {len(expected)} classes of the other part of the data, but "
            f"{' and '.join(faults)}. Upper and lower case count, and so do ways to write an accent."
        )


def remarks(folders: dict[str, ClassFolders]) -> list[str]:
    """Say what a reader of the results must know about class folders.

    Args:
        folders: by the name of the split.
    """
    told = []
    for split, found in folders.items():
        if found.left_out:
            suffixes = sorted(found.left_out, key=lambda suffix: (-found.left_out[suffix], suffix))
            kinds = [f"{found.left_out[suffix]:,} {shown(suffix)}" for suffix in suffixes]
            told.append(f"{split}/ has files that are no images by their suffix, left out: {few(kinds)}.")
        if found.stray:
            told.append(f"{split}/ has images outside of class folders, left out: {found.stray:,}.")
    names = next(iter(folders.values())).classes
    folded = Counter(name.casefold() for name in names)
    alike = [shown(name) for name in names if folded[name.casefold()] > 1]
    if alike:
        told.append(f"Classes that differ by upper and lower case only: {few(alike)}.")
    return told

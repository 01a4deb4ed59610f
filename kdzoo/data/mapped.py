"""What was decoded once is kept in one file and mapped into memory from then on.

`decoded/NAME-PLACE-KEY/` in kdzoo's cache has images.npy (training images, then test images; numpy reads it
as any other) and index.json with all else: labels, classes, warnings, fingerprint, channel statistics. PLACE
stands for root and options, KEY for every file's name, size and times of change as well. A writer makes
images.npy under another name, renames it when it is on the disk, and writes the index last, which knows size
and time of images.npy: whatever is found in another state is made again. Nothing is ever changed in place, so
a process that has an older file mapped keeps it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from filelock import Timeout

from kdzoo.checks import StorageError
from kdzoo.data import progress
from kdzoo.data.base import Dataset, Images, Labels, Split
from kdzoo.data.places import ELSEWHERE, cache
from kdzoo.data.trees import File
from kdzoo.files import atomic, open_lock, write_atomic

FORMAT = 1  # raised when the same files give other arrays, or an index has other entries


@dataclass(frozen=True)
class Source:
    """What a data set is decoded from: two with the same key give the same arrays.

    Attributes:
        name: of the data set.
        root: folder of the files.
        files: every file that is read, with names from the root.
        options: whatever else changes the arrays.
    """

    name: str
    root: Path
    files: Sequence[File]
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Hash of what stays when files are changed: name, root and options."""
        settings = json.dumps([FORMAT, self.name, dict(self.options)], sort_keys=True).encode()
        return hashlib.sha256(settings + os.fsencode(os.path.realpath(self.root))).hexdigest()

    @property
    def key(self) -> str:
        """Hash of the place and of every file's name, size and times of change.

        Also of the one that no program can set: who writes other content and puts the date back must not
        find the old images. A copy of the files is therefore decoded once more; its fingerprint, and with
        it every record, is the same. Inodes are left out: they change where the same disk is mounted anew.
        """
        digest = hashlib.sha256(self.place.encode())
        for file in self.files:
            digest.update(os.fsencode(file.name) + f"\0{file.size}\0{file.stamp}\0{file.changed}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Content:
    """What is to be kept.

    Attributes:
        classes: names.
        train: labels of the training images.
        test: labels of the test images.
        shape: of an image, (C, H, W).
        images: [n, C, H, W] pieces, all training images and then all test images.
        warnings: is asked when all images were read.
    """

    classes: tuple[str, ...]
    train: Labels
    test: Labels
    shape: tuple[int, int, int]
    images: Generator[Images, None, None]
    warnings: Callable[[], Sequence[str]] = tuple


def kept(source: Source, make: Callable[[], Content], warnings: Sequence[str] = ()) -> Dataset:
    """Give a data set from the cache, where it is put first if it is not there whole.

    Args:
        source: what it is decoded from.
        make: decodes it.
        warnings: of this call, beside those that are kept with the images.

    Returns:
        Its images are mapped copy-on-write: they can be written to, and the file does not change.

    Raises:
        UsageError: whatever `make` finds wrong.
        StorageError: the cache cannot be written, or the disk is full.
    """
    key = source.key
    folder = cache() / "decoded" / f"{source.name}-{source.place[:8]}-{key[:8]}"
    found = _read(source.name, folder, key, warnings)
    if found is None:
        with _locked(folder, source.name):
            # Another process may have made it while this one waited.
            found = _read(source.name, folder, key, warnings)
            if found is None:
                _tidy(folder, source)
                _write(source.name, folder, key, make())
                found = _read(source.name, folder, key, warnings)
    if found is None:
        raise StorageError(f"{folder} was changed while it was written. Run the same command again.")
    return found


def _read(name: str, folder: Path, key: str, warnings: Sequence[str]) -> Dataset | None:
    """Map a whole entry; None for one that is not there, damaged or of another key."""
    try:
        index = json.loads((folder / "index.json").read_bytes())
        shape, begin, parts = tuple(index["shape"]), index["begin"], index["labels"]
        labels = [np.array(part, dtype=np.int64) for part in parts]
        with open(folder / "images.npy", "rb") as file:
            found = os.fstat(file.fileno())
            whole = (
                index["key"] == key
                and [found.st_size, found.st_mtime_ns] == index["file"]
                and found.st_size == begin + math.prod(shape)
                and shape[0] == sum(map(len, labels))
            )
            if not whole:
                return None
            images: Images = np.asarray(np.memmap(file, np.uint8, "c", begin, shape))
        train, test = (Split(i, n) for i, n in zip(np.split(images, [len(labels[0])]), labels, strict=True))
        told = (*warnings, *index["warnings"])
        dataset = Dataset(name, train, test, tuple(index["classes"]), warnings=told)
        return dataset.known(index["fingerprint"], index["statistics"])
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return None


def _write(name: str, folder: Path, key: str, content: Content) -> None:
    """Write images and index, each whole or not at all, the index last."""
    path, count = folder / "images.npy", len(content.train) + len(content.test)
    shape = (count, *content.shape)
    with atomic(path, math.prod(shape), ELSEWHERE) as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        begin, written = file.tell(), 0
        with closing(content.images) as pieces:
            for piece in pieces:
                file.write(np.ascontiguousarray(piece).data)
                written += len(piece)
        if written != count:
            raise RuntimeError(f"data set {name}: {written} images for {count} labels")
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        images: Images = np.asarray(np.memmap(file, np.uint8, "c", begin, shape))
    train, test = np.split(images, [len(content.train)])
    dataset = Dataset(name, Split(train, content.train), Split(test, content.test), content.classes)
    index = {
        "key": key, "shape": shape, "begin": begin, "file": [found.st_size, found.st_mtime_ns],
        "fingerprint": dataset.fingerprint, "statistics": dataset.statistics,
        "warnings": list(content.warnings()), "classes": content.classes,
        "labels": [content.train.tolist(), content.test.tolist()],
    }  # fmt: skip
    write_atomic(folder / "index.json", json.dumps(index).encode(), ELSEWHERE)


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    lock = open_lock(folder, ELSEWHERE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.message(f"data set {name}: another process decodes it; waiting")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _tidy(folder: Path, source: Source) -> None:
    """Take away what dead processes left behind, and what the same root held before its files were changed.

    Folders that a living process works on are locked, and left alone.
    """
    for other in folder.parent.iterdir():
        try:
            if other == folder:
                _remove_parts(folder)
                continue
            with open_lock(other).acquire(timeout=0):
                if other.name.startswith(f"{source.name}-{source.place[:8]}-"):
                    shutil.rmtree(other, ignore_errors=True)
                else:
                    _remove_parts(other)
        except (Timeout, OSError):
            continue


def _remove_parts(folder: Path) -> None:
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)

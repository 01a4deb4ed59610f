"""Fashion-MNIST: 60,000 and 10,000 grey 28x28 images of ten kinds of clothes, from IDX files."""

from __future__ import annotations

import gzip
import http.client
import math
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kdzoo.checks import Problems, UsageError, usage
from kdzoo.data.base import Dataset, Split
from kdzoo.data.places import cache
from kdzoo.registry import DATASETS

WHO = "data set fashion_mnist"
PACKAGE = Path("/usr/share/datasets/fashion-mnist")
INSTALL = "`apt-get install dataset-fashion-mnist`"
REINSTALL = "`apt-get install --reinstall dataset-fashion-mnist`"
DOWNLOAD = "`--cfg-options data.download=True`"
# Names and image counts as published.
PARTS = {"train": 60_000, "t10k": 10_000}
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
BYTES = 0x08  # IDX's code of unsigned bytes


@DATASETS.register("fashion_mnist")
def fashion_mnist(root: Path | None, *, download: bool = False) -> Dataset:
    """Load Fashion-MNIST from its IDX files, plain or .gz.

    They are looked for in `root` alone if it is given; else in the folder of the Debian package
    dataset-fashion-mnist, then in kdzoo's cache (`$KDZOO_DATA`, else kdzoo/data in `$XDG_CACHE_HOME` or
    ~/.cache). torchvision's layout, FashionMNIST/raw in any of them, is found as well.

    Args:
        root: folder of the files.
        download: fetch the files by torchvision into `root` or the cache if they are in none of these places.

    Raises:
        UsageError: files are missing (which, where, how to get them) or damaged (all are named), or the
            download fails.

    Source: Xiao, Rasul and Vollgraf 2017, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
        Learning Algorithms", https://arxiv.org/abs/1708.07747.
    """
    places = [Path(root).expanduser()] if root is not None else [PACKAGE, cache()]
    folder = _find(places)
    if folder is None and download:
        folder = _download(places[-1])
    if folder is None:
        raise _missing(places, given=root is not None)

    problems = Problems()
    splits, warnings = {}, []
    for part, published in PARTS.items():
        with problems:
            split = splits[part] = _read_split(folder, part)
            if len(split) != published:
                warnings.append(
                    f"{folder} has {len(split):,} {part} images; Fashion-MNIST has {published:,}."
                )
    problems.raise_all()
    return Dataset("fashion_mnist", splits["train"], splits["t10k"], CLASSES, warnings=tuple(warnings))


def _names(part: str) -> tuple[str, str]:
    return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def _lacks(folder: Path) -> list[str]:
    return [name for part in PARTS for name in _names(part) if _file(folder, name) is None]


def _folders(place: Path) -> list[Path]:
    return [place, place / "FashionMNIST" / "raw"]


def _find(places: list[Path]) -> Path | None:
    return next((folder for place in places for folder in _folders(place) if not _lacks(folder)), None)


def _missing(places: list[Path], *, given: bool) -> UsageError:
    """Say what the best of the folders lacks, where it was looked for, and the one command that gets it."""
    folders = [folder for place in places for folder in _folders(place)]
    best = min(folders, key=lambda folder: len(_lacks(folder)))
    lacks = _lacks(best)
    partly = f" ({best} has the other{'s' if len(lacks) < 3 else ''})" if len(lacks) < 4 else ""
    install = f"name no folder and run {INSTALL}" if given else f"run {INSTALL}"
    return UsageError(
        f"{WHO}: no {', '.join(lacks)} (plain or .gz) in {', '.join(str(f) for f in folders)}{partly}. "
        f"To get them, {install}, or add {DOWNLOAD}."
    )


def _download(place: Path) -> Path:
    from torchvision.datasets import FashionMNIST

    try:
        FashionMNIST(str(place), download=True)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UsageError(
            f"{WHO}: the download to {place} failed: {reason}\n"
            f"{WHO}: try again, or run {INSTALL}, or put the files into {place} by hand."
        ) from error
    return _folders(place)[1]


def _read_split(folder: Path, part: str) -> Split:
    images_path, labels_path = (_file(folder, name) or folder / name for name in _names(part))
    problems = Problems()
    with problems:
        images = _read_idx(images_path, (28, 28))
    with problems:
        labels = _read_idx(labels_path, ())
        if labels.max() >= len(CLASSES):
            first = int(np.argmax(labels >= len(CLASSES)))
            raise _damaged(labels_path, "made of labels in [0, 9]", f"{labels[first]} at position {first}")
    problems.raise_all()
    if len(images) != len(labels):
        got = f"{len(labels)} labels for {len(images)} images"
        raise _damaged(labels_path, f"one label for each image of {images_path.name}", got)
    return Split(images[:, None], labels.astype(np.int64))


def _damaged(path: Path, expected: str, got: str) -> UsageError:
    do = f"run {REINSTALL}" if path.parent == PACKAGE else f"delete it and add {DOWNLOAD}"
    return usage(WHO, str(path), expected, got, f"For a good copy, {do}.")


def _read_idx(path: Path, item: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Read unsigned bytes from an IDX file and check all that its header says.

    Args:
        path: the file; a name that ends in .gz is unpacked.
        item: shape of one element, () for labels, in pixels.

    Returns:
        [N, *item], N at least 1.

    Source: the format is described at the end of http://yann.lecun.com/exdb/mnist/ (big-endian).
    """
    magic = bytes((0, 0, BYTES, 1 + len(item)))
    length = len(magic) + 4 * (1 + len(item))
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            header = file.read(length)
            if header[:4] != magic:
                raise _damaged(path, f"an IDX file that begins with {magic.hex()}", header[:4].hex())
            if len(header) < length:
                raise _damaged(path, f"whole, with a header of {length} bytes", f"{len(header)} bytes")
            shape = tuple(int(n) for n in np.frombuffer(header[4:], ">u4"))
            if shape[0] == 0 or shape[1:] != item:
                raise _damaged(path, f"of shape (1 or more, {', '.join(map(str, item))})", str(shape))
            body = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(path, "a whole gzip file", str(error)) from error
    except OSError as error:
        raise usage(WHO, str(path), "readable", error.strerror or str(error)) from error
    if len(body) != math.prod(shape):
        raise _damaged(path, f"whole, with {math.prod(shape)} bytes after its header", f"{len(body)} bytes")
    # A copy, because what frombuffer gives cannot be written to, of which torch warns.
    return np.frombuffer(body, np.uint8).reshape(shape).copy()

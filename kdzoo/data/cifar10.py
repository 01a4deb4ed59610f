"""CIFAR-10: 50,000 and 10,000 colour images of 32x32 pixels in ten classes."""

from __future__ import annotations

from pathlib import Path

from kdzoo.data.base import Dataset
from kdzoo.data.cifar import Cifar, load
from kdzoo.registry import DATASETS

CIFAR10 = Cifar(
    name="cifar10", title="CIFAR-10", folder="cifar-10-batches-py", archive="cifar-10-python.tar.gz",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)), test="test_batch", meta="batches.meta",
    labels="labels", names="label_names", classes=10, torchvision="CIFAR10",
)  # fmt: skip


@DATASETS.register("cifar10")
def cifar10(root: Path | None, *, download: bool = False) -> Dataset:
    """Load CIFAR-10 from its archive, its unpacked batches, or folders of PNG files.

    In `root` alone, if it is given, else in kdzoo's cache, these are looked for: cifar-10-batches-py with its
    batches (or `root` itself has them), cifar-10-python.tar.gz, train/ and test/ with a folder of 32x32 PNG
    files for each class. Batches keep their order; folders come class by class. Decoded once, the images stay
    in kdzoo's cache.

    Args:
        root: folder of the files.
        download: fetch the archive by torchvision into `root` or the cache if there is none of these.

    Raises:
        UsageError: files are missing, damaged or not safe to read, or the download fails.

    Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images", section 3,
        https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    return load(CIFAR10, root, download)

"""CIFAR-100: 50,000 and 10,000 colour images of 32x32 pixels in a hundred classes."""

from __future__ import annotations

from pathlib import Path

from kdzoo.data.base import Dataset
from kdzoo.data.cifar import Cifar, load
from kdzoo.registry import DATASETS

CIFAR100 = Cifar(
    name="cifar100", title="CIFAR-100", folder="cifar-100-python", archive="cifar-100-python.tar.gz",
    train=("train",), test="test", meta="meta", labels="fine_labels", names="fine_label_names", classes=100,
    torchvision="CIFAR100",
)  # fmt: skip


@DATASETS.register("cifar100")
def cifar100(root: Path | None, *, download: bool = False) -> Dataset:
    """Load CIFAR-100 with its fine labels from its archive, its unpacked files, or folders of PNG files.

    In `root` alone, if it is given, else in kdzoo's cache, these are looked for: cifar-100-python with train,
    test and meta (or `root` itself has them), cifar-100-python.tar.gz, train/ and test/ with a folder of
    32x32 PNG files for each class. Pickled files keep their order; folders come class by class. Decoded once,
    the images stay in kdzoo's cache.

    Args:
        root: folder of the files.
        download: fetch the archive by torchvision into `root` or the cache if there is none of these.

    Raises:
        UsageError: files are missing, damaged or not safe to read, or the download fails.

    Source: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images", section 3,
        https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    return load(CIFAR100, root, download)

"""Handwritten digits that come with scikit-learn: 1,797 images for trying things out, not for ranking."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from kdzoo.data.base import Dataset, Images, Labels, Split
from kdzoo.data.split import stratified
from kdzoo.data.views import resize
from kdzoo.keys import key
from kdzoo.registry import DATASETS


@DATASETS.register("digits")
def digits(root: Path | None) -> Dataset:
    """Load scikit-learn's digits as 1x32x32 images: 1,498 to train, 299 to test.

    The 8x8 images have levels 0 to 16. They are brought to 0 to 255 (level * 255 / 16, rounded), then to
    32x32 by `kdzoo.data.views.resize`. The test images are a sixth of each class, by a constant key; one of
    them is 0.33 points.

    Args:
        root: not used; scikit-learn brings the files.

    Source: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits" (its test part), UCI Machine
        Learning Repository, https://doi.org/10.24432/C50P49.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))
    images: Images = resize(levels[:, None], 32).numpy()
    labels: Labels = bunch.target.astype(np.int64)
    train, test = stratified(labels, 1 / 6, key(0, "digits test"))
    return Dataset(
        "digits",
        train=Split(images[train], labels[train]),
        test=Split(images[test], labels[test]),
        classes=tuple(str(number) for number in range(10)),
    )

from pathlib import Path

import numpy as np
import pytest

from kdzoo.checks import UsageError
from kdzoo.data import Dataset, load_dataset


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def test_counts_shapes_and_types(digits: Dataset) -> None:
    assert digits.train.images.shape == (1498, 1, 32, 32)
    assert digits.test.images.shape == (299, 1, 32, 32)
    assert digits.train.images.dtype == np.uint8
    assert digits.train.labels.dtype == digits.test.labels.dtype == np.int64
    assert (digits.channels, digits.size, digits.classes) == (1, 32, tuple("0123456789"))


def test_test_part_is_stratified(digits: Dataset) -> None:
    test, train = (np.bincount(split.labels, minlength=10) for split in (digits.test, digits.train))
    np.testing.assert_allclose(test / (test + train), 1 / 6, atol=0.003)


def test_no_image_is_in_both_parts_more_often_than_in_the_source(digits: Dataset) -> None:
    from sklearn.datasets import load_digits

    def count(images: np.ndarray) -> int:
        return len({image.tobytes() for image in images})

    together = np.concatenate([digits.train.images, digits.test.images])
    assert count(together) == count(load_digits().images)


def test_levels_fill_the_range_and_the_pixels_are_pils(digits: Dataset) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    source = load_digits()
    assert digits.train.images.min() == 0
    assert digits.train.images.max() == 255
    mine = {image.tobytes() for split in (digits.train, digits.test) for image in split.images}
    for image in source.images[:50]:
        grey = Image.fromarray(np.round(image * 255 / 16).astype(np.uint8))
        assert grey.resize((32, 32), Image.Resampling.BILINEAR).tobytes() in mine


def test_images_keep_their_labels(digits: Dataset) -> None:
    """A nearest-centroid classifier gets far above chance, as no shuffled labels would let it."""
    flat = digits.train.images.reshape(len(digits.train), -1).astype(float)
    centres = np.stack([flat[digits.train.labels == k].mean(0) for k in range(10)])
    test = digits.test.images.reshape(len(digits.test), 1, -1)
    assert (((test - centres) ** 2).sum(2).argmin(1) == digits.test.labels).mean() > 0.8


def test_it_is_the_same_each_time_and_needs_no_folder(digits: Dataset) -> None:
    assert load_dataset("digits", Path("/nowhere")).fingerprint == digits.fingerprint


def test_it_has_no_options() -> None:
    with pytest.raises(UsageError, match="no options, got 'download'"):
        load_dataset("digits", options={"download": True})

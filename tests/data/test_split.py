import dataclasses

import numpy as np
import pytest

from kdzoo.checks import UsageError
from kdzoo.data import Dataset, Split
from kdzoo.data.split import channel_statistics, split_validation


def numbered(counts: tuple[int, ...]) -> Dataset:
    """A data set whose images carry their own number, so that each can be found again."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.arange(len(labels)).astype(np.uint32).view(np.uint8).reshape(-1, 1, 2, 2)
    split = Split(images, labels)
    return Dataset("numbered", split, split, tuple("abcdefghij"[: len(counts)]))


def numbers(split: Split | None) -> list[int]:
    assert split is not None
    return np.ascontiguousarray(split.images).reshape(-1, 4).view(np.uint32)[:, 0].tolist()


def test_parts_are_disjoint_and_complete_and_keep_their_labels() -> None:
    whole = numbered((100, 50, 31))
    parted = split_validation(whole, 0.1)
    kept, taken = numbers(parted.train), numbers(parted.validation)
    assert sorted(kept + taken) == numbers(whole.train)
    assert kept == sorted(kept)
    assert taken == sorted(taken)
    np.testing.assert_array_equal(parted.train.labels, whole.train.labels[kept])
    assert parted.validation is not None
    np.testing.assert_array_equal(parted.validation.labels, whole.train.labels[taken])
    assert parted.test is whole.test


SHARES = [(0.1, [10, 5, 3, 1]), (0.5, [50, 25, 16, 1]), (0.999, [99, 49, 30, 1])]


@pytest.mark.parametrize(("fraction", "expected"), SHARES)
def test_every_class_gives_its_share_and_keeps_one(fraction: float, expected: list[int]) -> None:
    parted = split_validation(numbered((100, 50, 31, 2)), fraction)
    assert parted.validation is not None
    assert np.bincount(parted.validation.labels).tolist() == expected
    assert np.bincount(parted.train.labels).min() >= 1


def test_parts_know_where_their_images_stood() -> None:
    whole = numbered((100, 50, 31))
    assert whole.train.positions is None
    assert whole.loaded == 181
    parted = split_validation(whole, 0.1)
    assert parted.validation is not None
    for part in (parted.train, parted.validation):
        assert part.positions is not None
        assert part.positions.dtype == np.int64
        assert part.positions.tolist() == numbers(part)
    assert parted.loaded == 181
    # A data set that brings a validation part had nothing taken off.
    assert dataclasses.replace(whole, validation=parted.validation).loaded == 181


def test_split_is_constant_and_not_the_first_images() -> None:
    first, again = (split_validation(numbered((100, 50)), 0.1) for _ in range(2))
    assert first.fingerprint == again.fingerprint
    assert numbers(first.validation) != list(range(15))


def test_fingerprint_knows_of_the_split() -> None:
    whole = numbered((100, 50))
    assert len({split_validation(whole, f).fingerprint for f in (0, 0.1, 0.2)}) == 3


def test_zero_changes_nothing() -> None:
    whole = numbered((10, 10))
    assert split_validation(whole, 0) is whole


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan"), float("inf"), "0.1", True, None])
def test_wrong_fractions_are_answered(fraction: object) -> None:
    with pytest.raises(UsageError, match=r"numbered: validation fraction must be a number in \[0, 1\), got"):
        split_validation(numbered((10, 10)), fraction)  # type: ignore[arg-type]


def test_class_of_one_image_is_named() -> None:
    with pytest.raises(UsageError, match="two images of each class or more, got \\['b'\\]"):
        split_validation(numbered((10, 1, 5)), 0.1)


def test_second_split_is_refused() -> None:
    with pytest.raises(UsageError, match="a validation part already"):
        split_validation(split_validation(numbered((10, 10)), 0.1), 0.1)


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_equal_numpy(channels: int) -> None:
    # More images than one piece of the count.
    images = np.random.default_rng(0).integers(0, 256, (4100, channels, 5, 7), np.uint8)
    images[:, 0] //= 3
    mean, std = channel_statistics(images)
    pixels = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std((0, 2, 3)), rtol=1e-12)


def test_constant_channel_has_deviation_one() -> None:
    images = np.full((3, 2, 4, 4), 51, np.uint8)
    images[0, 1, 0, 0] = 0
    (mean, _), (std, other) = channel_statistics(images)
    assert (mean, std) == (0.2, 1.0)
    assert 0 < other < 0.2


def test_data_set_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        numbered((2, 2)).name = "other"  # type: ignore[misc]

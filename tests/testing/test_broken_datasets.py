"""Data sets that are broken on purpose, each in one way: the rule that is meant for it finds it and says so.
Their whole twin keeps the contract."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from kdzoo.checks import Count
from kdzoo.data import Dataset, Split
from kdzoo.testing import ContractError, check_dataset, dataset_checks
from kdzoo.testing.datasets import RULES


class Broken(NamedTuple):
    name: str
    load: Callable[..., Dataset]
    rule: str
    words: str


BROKEN: list[Broken] = []


def whole(root: Path | None, *, count: Count = 12) -> Dataset:
    """Make random images of three classes.

    Args:
        root: not used.
        count: training images.
    """
    draw = np.random.default_rng(0)
    train, test = (
        Split(draw.integers(0, 256, (n, 3, 8, 8), np.uint8), np.arange(n, dtype=np.int64) % 3)
        for n in (count, 6)
    )
    return Dataset("whole", train, test, ("a", "b", "c"))


def breaks(name: str, rule: str, words: str, change: Callable[[Dataset], object]) -> None:
    """Make a broken data set of the whole one."""

    def load(root: Path | None) -> Dataset:
        """Load what is broken."""
        return change(whole(root))  # type: ignore[return-value]

    BROKEN.append(Broken(name, load, rule, words))


def split(part: str, **changes: object) -> Callable[[Dataset], Dataset]:
    """Give a change of one part's images or labels."""

    def change(data: Dataset) -> Dataset:
        own = getattr(data, part)
        values = {name: value(getattr(own, name)) for name, value in changes.items()}  # type: ignore[operator]
        return replace(data, **{part: replace(own, **values)})

    return change


def frozen(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


def undocumented(root: Path | None) -> Dataset:
    return whole(root)


def many(root: Path | None, more: int) -> Dataset:
    """Take two arguments."""
    return whole(root)


def silent(root: Path | None, *, count: Count = 12) -> Dataset:
    """Have an option that nobody explains."""
    return whole(root, count=count)


BROKEN += [
    Broken("undocumented", undocumented, "declares_itself", "it must have a docstring"),
    Broken("many", many, "declares_itself", "it must take its folder and options behind '*'"),
    Broken("silent", silent, "declares_itself", "options ['count'] must stand in the class docstring"),
]
breaks(
    "arrays", "returns_a_dataset", "must return a kdzoo.data.Dataset, got tuple", lambda d: (d.train, d.test)
)
breaks("nameless", "returns_a_dataset", "name must be a text", lambda d: replace(d, name=""))
BYTES = "images_are_squares_of_bytes"
breaks("floats", BYTES, "train.images must be uint8 [N, C, H, W], got float64 [12, 3, 8, 8]",
       split("train", images=lambda a: a / 255))  # fmt: skip
breaks("flat", BYTES, "test.images must be uint8", split("test", images=lambda a: a.reshape(6, -1)))
breaks("oblong", BYTES, "must be one or more squares", split("train", images=lambda a: a[:, :, :4]))
breaks("empty", BYTES, "must be one or more squares", split("test", images=lambda a: a[:0]))
breaks("unlike", BYTES, "must be of one shape", split("test", images=lambda a: a[:, :1]))
LABELS = "labels_number_the_classes"
breaks(
    "bytes",
    LABELS,
    "train.labels must be int64 [N], got uint8",
    split("train", labels=lambda a: a.astype(np.uint8)),
)
breaks("short", LABELS, "test has 5 labels for 6 images", split("test", labels=lambda a: a[1:]))
breaks("high", LABELS, "train.labels must be 0 to 2", split("train", labels=lambda a: a + 1))
breaks("unseen", LABELS, "class 'c' has no training image", split("train", labels=lambda a: a % 2))
breaks(
    "endless", "classes_have_names", "class 0 has 1,500 characters",
    lambda d: replace(d, classes=("a" * 1500, "b", "c")),
)  # fmt: skip
breaks("numbers", "classes_have_names", "must be a tuple of texts", lambda d: replace(d, classes=(0, 1, 2)))
breaks(
    "twins", "classes_have_names", "must be different names", lambda d: replace(d, classes=("a", "a", "b"))
)
turns = iter(range(100))
breaks("drawn", "loading_repeats", "loaded again it has other images",
       split("train", images=lambda a: a + np.uint8(next(turns))))  # fmt: skip
breaks("frozen", "arrays_go_to_torch", "train.images: The given NumPy array is not writable",
       split("train", images=frozen))  # fmt: skip
breaks("leaking", "no_test_image_is_trained_on", "6 of 6 test images are training images",
       lambda d: replace(d, test=Split(d.train.images[:6], d.train.labels[:6])))  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_broken_data_set_is_found_by_the_rule_for_it(broken: Broken) -> None:
    (check,) = (c for c in dataset_checks(broken.load) if c.name == broken.rule)
    with pytest.raises(ContractError) as caught:
        check()
    assert broken.words in str(caught.value)


@pytest.mark.parametrize("rule", [rule.__name__ for rule in RULES])
def test_every_rule_finds_something_that_is_broken(rule: str) -> None:
    assert rule in {broken.rule for broken in BROKEN}


def test_whole_twin_and_the_zoos_own_keep_the_contract() -> None:
    check_dataset(whole)
    check_dataset(whole, options={"count": 30})
    check_dataset("digits")


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(ContractError) as caught:
        check_dataset(lambda root: whole(root))
    assert str(caught.value).splitlines()[0].endswith(f"1 of {len(RULES)} rules of its contract are not kept")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'digits'"):
        dataset_checks("digit")

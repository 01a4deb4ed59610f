"""Data sets of arrays that are in memory already."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kdzoo.checks import Problems, UsageError, usage
from kdzoo.data.base import Dataset, Images, Labels, Split, fault_of_names

WHO = "data"
_LAYOUTS = "uint8 [N, H, W], [N, H, W, C] or [N, C, H, W], with H = W and 1 or 3 channels"


def from_arrays(
    train_images: Any,
    train_labels: Any,
    test_images: Any,
    test_labels: Any,
    *,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
) -> Dataset:
    """Make a data set of arrays: numpy's, torch's, or anything that numpy can turn into one.

    Images are not copied where they lie in memory as they must, because large ones would not fit in there
    twice. Instead every run hashes them anew: changed in place, they are other data, with records of their
    own. That costs a second or so for every GB.

    Args:
        train_images: uint8 [N, H, W], [N, H, W, C] or [N, C, H, W], squares of 1 or 3 channels. Where both
            are possible, channels are taken to be last, as image libraries have them.
        train_labels: [N] class numbers from 0.
        test_images: as the training images.
        test_labels: [M] class numbers.
        classes: their names; None calls them by their numbers.
        name: what the data is called in records and tables.

    Raises:
        UsageError: all that is wrong with the arrays, a line each.
    """
    problems = Problems()
    parts: dict[str, tuple[Images, Labels]] = {}
    given = {"train": (train_images, train_labels), "test": (test_images, test_labels)}
    for part, (images, labels) in given.items():
        with problems:
            parts[part] = _images(f"{WHO}, {part} images", images), _labels(f"{WHO}, {part} labels", labels)
            if len(parts[part][0]) != len(parts[part][1]):
                counts = [len(array) for array in parts[part]]
                raise usage(WHO, f"{part} images and labels", "as many", counts)
    with problems:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w.-]{0,99}", name):
            raise usage(WHO, "name", "a name of letters, digits, '_', '.' and '-'", name)
    problems.raise_all()
    _check_fit(parts, classes)
    count = int(parts["train"][1].max()) + 1
    names = tuple(map(str, range(count) if classes is None else classes))
    train, test = (Split(*parts[part]) for part in ("train", "test"))
    return Dataset(name, train=train, test=test, classes=names)


def as_dataset(given: Any) -> Dataset:
    """Take a data set, or the four arrays that make one.

    Raises:
        UsageError: it is neither, or the arrays make none.
    """
    if isinstance(given, Dataset):
        return given
    if not isinstance(given, (tuple, list)) or len(given) != 4:
        got = f"{type(given).__name__} of {len(given)}" if hasattr(given, "__len__") else type(given).__name__
        expected = "a name, what kdzoo.from_arrays gives, or the four arrays that it takes"
        raise usage("kdzoo", "data", expected, got)
    return from_arrays(*given)


def _array(who: str, given: Any) -> np.ndarray[Any, Any]:
    if isinstance(given, torch.Tensor):
        return given.detach().cpu().numpy()
    wrong = UsageError(f"{who}: must be one array of numbers, got items of different shapes or kinds.")
    try:
        array = np.asarray(given)
    except ValueError:
        raise wrong from None
    if array.dtype == object:
        raise wrong
    return array


def _images(who: str, given: Any) -> Images:
    array = _array(who, given)
    if array.dtype != np.uint8:
        advice = "Bring them to 0..255 and uint8." if array.ndim in (3, 4) else ""
        raise usage(who, "their type", _LAYOUTS, f"{array.dtype} {list(array.shape)}", advice)
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    sound = array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[2] == array.shape[3] > 0
    if not sound or len(array) == 0:
        raise usage(who, "their shape", _LAYOUTS, list(np.shape(given)))
    return np.ascontiguousarray(array)


def _labels(who: str, given: Any) -> Labels:
    array = _array(who, given)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise usage(who, "they", "[N] integers from 0", f"{array.dtype} {list(array.shape)}")
    if len(array) and array.min() < 0:
        raise usage(who, "they", "class numbers from 0", int(array.min()))
    return array.astype(np.int64)


def _check_fit(parts: dict[str, tuple[Images, Labels]], classes: Sequence[str] | None) -> None:
    problems = Problems()
    train, test = parts["train"], parts["test"]
    with problems:
        if train[0].shape[1:] != test[0].shape[1:]:
            shapes = [list(part[0].shape[1:]) for part in (train, test)]
            raise usage(WHO, "train and test images", "of one shape [C, H, W]", shapes)
    count = int(train[1].max()) + 1
    with problems:
        missing = sorted(set(range(count)) - set(np.unique(train[1]).tolist()))
        if missing:
            raise UsageError(
                f"{WHO}: train labels must have every class from 0 to {count - 1}, class {missing[0]} has no "
                "image. Number the classes without gaps."
            )
    with problems:
        if test[1].max() >= count:
            raise usage(
                WHO, "test labels", f"classes of the train labels, 0 to {count - 1}", int(test[1].max())
            )
    with problems:
        names = [] if classes is None or isinstance(classes, str) else list(map(str, classes))
        if classes is not None and not len(names) == len(set(names)) == count:
            got = classes if isinstance(classes, str) else names
            raise usage(WHO, "classes", f"{count} different names, one for each class", got)
        if fault := fault_of_names(names):
            raise UsageError(f"{WHO}: classes must have names that can be kept: {fault}.")
    problems.raise_all()

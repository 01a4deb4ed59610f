"""The contract of data sets: the same rules for third parties as for the zoo."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdzoo.checks import checked, options_of
from kdzoo.data import Dataset, Split
from kdzoo.data.base import fault_of_names
from kdzoo.data.picture_files import PictureFiles
from kdzoo.registry import DATASETS
from kdzoo.testing.contract import Check, ContractError, Rule, bind, run_all
from kdzoo.testing.declarations import check_options

# Public data sets have some images in both parts; a larger share is a mistake of whoever parted them.
MOST_IN_BOTH = 0.1


@dataclass(frozen=True)
class DatasetSubject:
    """A data set under check.

    Attributes:
        load: gives it for a folder and options.
        root: the folder.
        options: for all checks.
    """

    load: Callable[..., Dataset]
    root: Path | None
    options: Mapping[str, Any]

    @cached_property
    def data(self) -> Dataset:
        """The data set, loaded once for all rules but one."""
        return self.load(self.root, **self.options)

    @property
    def in_memory(self) -> dict[str, np.ndarray[Any, Any]]:
        """The images of the parts that are arrays, by name; pictures in files are looked at by none."""
        found = {part: split.images for part, split in self.parts.items()}
        return {part: images for part, images in found.items() if not isinstance(images, PictureFiles)}

    @property
    def parts(self) -> dict[str, Split]:
        """The parts that there are, by name."""
        return {"train": self.data.train, "test": self.data.test}


def declares_itself(subject: DatasetSubject) -> None:
    """It has a docstring, takes (root), and its options are documented."""
    if not (inspect.getdoc(subject.load) or "").strip():
        raise ContractError("it must have a docstring; its first line is shown by `kdzoo list datasets`.")
    sized = [
        name for name, p in inspect.signature(subject.load).parameters.items() if p.kind is not p.KEYWORD_ONLY
    ]
    if len(sized) != 1:
        raise ContractError(f"it must take its folder and options behind '*', got {sized} before them.")
    check_options(options_of(subject.load))


def returns_a_dataset(subject: DatasetSubject) -> None:
    """It gives a `kdzoo.data.Dataset` with a name, of which tables and folders can be made."""
    if not isinstance(subject.data, Dataset):
        raise ContractError(f"it must return a kdzoo.data.Dataset, got {type(subject.data).__name__}.")
    if not isinstance(subject.data.name, str) or not 0 < len(subject.data.name) <= 100:
        raise ContractError(f"name must be a text of 1 to 100 characters, got {subject.data.name!r}.")


def images_are_squares_of_bytes(subject: DatasetSubject) -> None:
    """Images are uint8 [N, C, H, W] with H = W, of one shape in all parts, and there are some."""
    shapes = set()
    for part, split in subject.parts.items():
        images = split.images
        if isinstance(images, PictureFiles):
            shapes.add(images.shape[1:])
            continue
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4:
            got = f"{getattr(images, 'dtype', type(images).__name__)} {list(np.shape(images))}"
            raise ContractError(f"{part}.images must be uint8 [N, C, H, W], got {got}.")
        if len(images) == 0 or images.shape[2] != images.shape[3]:
            raise ContractError(f"{part}.images must be one or more squares, got {list(images.shape)}.")
        shapes.add(images.shape[1:])
    if len(shapes) > 1:
        raise ContractError(f"train and test images must be of one shape, got {sorted(shapes)}.")


def labels_number_the_classes(subject: DatasetSubject) -> None:
    """Labels are int64 [N], one for each image, below the number of classes; every class is trained on."""
    count = len(subject.data.classes)
    for part, split in subject.parts.items():
        labels = split.labels
        if not isinstance(labels, np.ndarray) or labels.dtype != np.int64 or labels.ndim != 1:
            got = f"{getattr(labels, 'dtype', type(labels).__name__)} {list(np.shape(labels))}"
            raise ContractError(f"{part}.labels must be int64 [N], got {got}.")
        if len(labels) != len(split.images):
            raise ContractError(f"{part} has {len(labels)} labels for {len(split.images)} images.")
        if labels.min() < 0 or labels.max() >= count:
            raise ContractError(
                f"{part}.labels must be 0 to {count - 1}, as there are {count} class names, got "
                f"{labels.min()} to {labels.max()}."
            )
    missing = sorted(set(range(count)) - set(np.unique(subject.data.train.labels).tolist()))
    if missing:
        raise ContractError(f"class {subject.data.classes[missing[0]]!r} has no training image.")


def classes_have_names(subject: DatasetSubject) -> None:
    """Class names are different texts in a tuple, of 1 to 1,000 characters."""
    names = subject.data.classes
    if not isinstance(names, tuple) or not all(isinstance(n, str) and n for n in names):
        raise ContractError(f"classes must be a tuple of texts, got {names!r}.")
    if fault := fault_of_names(names):
        raise ContractError(f"classes must have names that can be kept: {fault}.")
    if len(set(names)) != len(names):
        raise ContractError(f"classes must be different names, got {sorted(names)}.")


def loading_repeats(subject: DatasetSubject) -> None:
    """Loaded again it is the same: records are found by the hash of its content."""
    again = subject.load(subject.root, **subject.options)
    if again.fingerprint != subject.data.fingerprint:
        raise ContractError(
            "loaded again it has other images, labels or classes. Sort what a folder lists, and draw by "
            "kdzoo.keys.key(0, ...) if at all."
        )


def arrays_go_to_torch(subject: DatasetSubject) -> None:
    """torch takes its arrays without a copy and without a warning."""
    for part, images in subject.in_memory.items():
        for name, array in (("images", images), ("labels", subject.parts[part].labels)):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    torch.from_numpy(array)
                except (UserWarning, TypeError, ValueError) as error:
                    reason = str(error).split(".")[0]
                    raise ContractError(f"{part}.{name}: {reason}. Give a copy (array.copy()).") from error


def no_test_image_is_trained_on(subject: DatasetSubject) -> None:
    """Few images, if any, are in both parts."""
    train, test = (subject.in_memory.get(part, ()) for part in ("train", "test"))
    known = {image.tobytes() for image in train}
    both = sum(image.tobytes() in known for image in test)
    if both > MOST_IN_BOTH * len(subject.data.test.images):
        raise ContractError(
            f"{both} of {len(subject.data.test)} test images are training images, too. Part them anew."
        )


RULES: tuple[Rule, ...] = (
    declares_itself,
    returns_a_dataset,
    images_are_squares_of_bytes,
    labels_number_the_classes,
    classes_have_names,
    loading_repeats,
    arrays_go_to_torch,
    no_test_image_is_trained_on,
)


def dataset_checks(
    thing: str | Callable[..., Dataset],
    *,
    root: Path | None = None,
    options: Mapping[str, Any] | None = None,
    exempt: Mapping[str, str] | None = None,
) -> list[Check]:
    """Give the rules for one data set, each ready to run: parameters of a pytest test.

    Args:
        thing: a function that loads it, or a name of `kdzoo list datasets`.
        root: the folder that it is loaded from.
        options: of the data set.
        exempt: reasons, by the names of rules that it does not keep; an exemption that is not needed fails.

    Returns:
        A check for each rule; `str(check)` is its name.

    Raises:
        UsageError: an unknown name, options that it does not accept, or an exemption without a reason.
    """
    load = DATASETS.find(thing) if isinstance(thing, str) else thing
    values = checked(_who(thing), options_of(load), options or {})
    return bind(RULES, DatasetSubject(load, root, values), exempt)


def check_dataset(
    thing: str | Callable[..., Dataset],
    *,
    root: Path | None = None,
    options: Mapping[str, Any] | None = None,
    exempt: Mapping[str, str] | None = None,
) -> None:
    """Hold a data set to its whole contract and tell all that is wrong at once.

    Args:
        thing: a function that loads it, or a name of `kdzoo list datasets`.
        root: the folder that it is loaded from.
        options: of the data set.
        exempt: reasons, by the names of rules that it does not keep; an exemption that is not needed fails.

    Raises:
        ContractError: a line for each rule that is not kept.
        UsageError: an unknown name, options that it does not accept, or an exemption without a reason.
    """
    run_all(_who(thing), dataset_checks(thing, root=root, options=options, exempt=exempt))


def _who(thing: Any) -> str:
    return thing if isinstance(thing, str) else str(getattr(thing, "__name__", repr(thing)))

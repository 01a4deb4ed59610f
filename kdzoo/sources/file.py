"""Soft labels of the user's own, from a file: scores or probabilities, by class or by training image."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import safetensors
import torch
from torch import Tensor

from kdzoo.checks import UsageError, usage
from kdzoo.outputs import Batch, Setting, SoftLabels, probabilities, scores
from kdzoo.registry import SOURCES
from kdzoo.sources.base import Source, Workshop

# How far the sum of a row of probabilities may be from 1; it is made exact afterwards.
TOLERANCE = 1e-3
# Numbers that are held in float64 at a time.
PORTION = 2**22
FINITE = "numbers that are finite in float32"
SPELLING = "A path cannot have any of : , ~ * ? [ or a + before a letter: the method grammar reads them."


class _Table(NamedTuple):
    """A file's array, of which only the parts that are asked for are read: rows [start, stop) in float64."""

    shape: tuple[int, ...]
    dtype: str
    numbers: bool
    part: Callable[[int, int], Tensor]


@SOURCES.register("file")
class File(Source):
    """Soft labels of your own, a row per class or a row per training image.

    The file is .npy (`numpy.save`) or .safetensors with one tensor, of floating or integer numbers. [K, K]
    has a row per class; [N, K] a row per training image of the data set as it was loaded, in its order: also
    those that --val-fraction takes off, which are passed over. It is known by the hash of its content, so a
    changed file makes another member.

    Args:
        path: of the file; a relative one starts at the current directory. It cannot have any of : , ~ * ? [
            or a plus sign before a letter, which the method grammar reads otherwise.
        kind: scores, such as logits, are divided by the method's temperature; probabilities are left as they
            are. Their rows must sum to 1 within 0.001, and are then divided by their sum in float64.
    """

    needs = frozenset({"indices"})
    paper = "the user's own file"

    def __init__(self, *, path: str, kind: Literal["scores", "probabilities"]) -> None:
        self.path = path
        self.kind = kind
        self.gives_scores = kind == "scores"

    def check(self, setting: Setting) -> None:
        """Refuse a file that is not there, holds anything but numbers, or does not fit the data."""
        for _ in self._parts(setting.classes, setting.loaded or len(setting.labels)):
            pass

    def content(self) -> Mapping[str, str]:
        """Give the hash of the file."""
        digest = hashlib.sha256()
        try:
            with open(self.path, "rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        return {"sha256": digest.hexdigest()}

    def fit(self, workshop: Workshop) -> None:
        """Read the rows of the classes, or of the images that are trained on."""
        rows = torch.cat(list(self._parts(workshop.num_classes, workshop.loaded)))
        self._by_class = len(rows) == workshop.num_classes
        if not self._by_class and workshop.positions is not None:
            rows = rows[torch.from_numpy(workshop.positions)]
        self._rows = rows.to(workshop.device)

    def __call__(self, batch: Batch) -> SoftLabels:
        """Give each sample the row of its class, or its own."""
        rows = self._rows[batch.labels if self._by_class else batch.indices]
        return scores(rows) if self.kind == "scores" else probabilities(rows)

    def _parts(self, classes: int, images: int) -> Iterator[Tensor]:
        """Read the rows in float32, some at a time, and check them."""
        table = _opened(self.path)
        if not table.numbers:
            raise usage("file", self.path, "of floating or integer numbers", table.dtype)
        if table.shape not in ((classes, classes), (images, classes)):
            rows = f"[{images}, {classes}] (a row per training image of the data set as it was loaded)"
            expected = f"of shape [{classes}, {classes}] (a row per class) or {rows}"
            raise usage("file", self.path, expected, list(table.shape))
        step = max(1, PORTION // classes)
        for start in range(0, table.shape[0], step):
            part = table.part(start, min(start + step, table.shape[0]))
            if self.kind == "probabilities":
                self._check_distributions(part, start)
                part = part / part.sum(dim=1, keepdim=True)
            part = part.float()
            self._check(FINITE, start, part, ~part.isfinite())
            yield part

    def _check_distributions(self, rows: Tensor, start: int) -> None:
        do = "Are they scores? Then write kind=scores."
        self._check(FINITE, start, rows, ~rows.isfinite())
        self._check("probabilities, none negative", start, rows, rows < 0, do)
        sums = rows.sum(dim=1, keepdim=True)
        expected = f"probabilities with a sum within {TOLERANCE:g} of 1"
        self._check(expected, start, sums, (sums - 1).abs() > TOLERANCE, do)

    def _check(self, expected: str, start: int, values: Tensor, wrong: Tensor, do: str = "") -> None:
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            found = values[row, column].item()
            raise usage("file", f"row {start + row} of {self.path}, counted from 0,", expected, found, do)


def _opened(path: str) -> _Table:
    known: dict[str, Callable[[Path], _Table]] = {".npy": _npy, ".safetensors": _safetensors}
    if not path.isprintable():
        raise usage("file", "path", "a text of printable characters", path)
    place = Path(path)
    if place.suffix.lower() not in known:
        raise usage("file", "path", f"a file whose name ends in {' or '.join(known)}", path, SPELLING)
    try:
        if not place.is_file():
            raise UsageError(f"file: there is no file {place.absolute()}. {SPELLING}")
        return known[place.suffix.lower()](place)
    except UsageError:
        raise
    # Whatever a damaged header makes of a reader; neither of the two executes anything.
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> UsageError:
    why = " ".join(str(error).split()).rstrip(".")
    return UsageError(
        f"file: {path} cannot be read: {why}. It must hold an array of numbers, as numpy.save or "
        f"safetensors.torch.save_file write it, and no pickled objects."
    )


def _npy(path: Path) -> _Table:
    # Unlike numpy.load it knows no pickles at all, not even to refuse them.
    array = np.lib.format.open_memmap(path, mode="r")

    def part(start: int, stop: int) -> Tensor:
        # What is too large becomes infinite, which is told of later, and by row.
        with np.errstate(over="ignore"):
            return torch.from_numpy(np.array(array[start:stop], dtype=np.float64))

    return _Table(array.shape, str(array.dtype), array.dtype.kind in "fiu", part)


def _safetensors(path: Path) -> _Table:
    file: Any = safetensors.safe_open(path, framework="pt")
    names = list(file.keys())
    if len(names) != 1:
        do = "Write the one that is meant into a file of its own (safetensors.torch.save_file)."
        raise usage("file", str(path), "a file of one tensor", names[:5] + ["..."] * (len(names) > 5), do)
    tensor = file.get_slice(names[0])
    dtype = str(tensor.get_dtype())
    numbers = re.fullmatch("(F|BF|I|U)(8|16|32|64)", dtype) is not None
    return _Table(tuple(tensor.get_shape()), dtype, numbers, lambda *rows: tensor[slice(*rows)].double())

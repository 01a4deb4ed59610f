"""What the teacher bank keeps of each sample, and how many bytes that is."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kdzoo.checks import FormError
from kdzoo.keys import fingerprint

# What is noted beside a row: index of its sample + 1, and the sum of its bits.
RECORD = np.dtype([("place", "<u8"), ("sum", "<u8")])


@dataclass(frozen=True)
class Entry:
    """What the bank keeps of each sample under one key.

    Attributes:
        name: for messages and folders, as "at" or "logits".
        settings: everything that tells it from other entries, as JSON.
        tensors: by name, the shape of one sample's row and its dtype.
    """

    name: str
    settings: Mapping[str, Any]
    tensors: Mapping[str, tuple[tuple[int, ...], torch.dtype]]

    def __post_init__(self) -> None:
        if not self.tensors or not all(math.prod(shape) for shape, _ in self.tensors.values()):
            raise FormError(
                f"teacher bank: entry {self.name!r} must have tensors, and rows that hold numbers."
            )

    @functools.cached_property
    def key(self) -> str:
        """Hash of settings, shapes and dtypes; the name is none of it."""
        return fingerprint(self.described())

    def described(self) -> dict[str, Any]:
        """Give what the key is made of."""
        tensors = {name: [list(shape), str(dtype)] for name, (shape, dtype) in self.tensors.items()}
        return {"settings": dict(self.settings), "tensors": tensors}

    @functools.cached_property
    def widths(self) -> dict[str, int]:
        """Bytes of a row of each tensor, in the order in which the file has them."""
        return {
            name: math.prod(self.tensors[name][0]) * self.tensors[name][1].itemsize
            for name in sorted(self.tensors)
        }

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample, all tensors together."""
        return sum(self.widths.values())

    def view_bytes(self, samples: int) -> int:
        """Bytes of a whole view on the disk, but for its view.json."""
        return samples * (self.row_bytes + RECORD.itemsize)

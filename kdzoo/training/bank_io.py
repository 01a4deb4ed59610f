"""What the teacher bank asks of the system, and tensors as bits."""

from __future__ import annotations

import errno
import functools
import math
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# What the system answers where a file cannot be given room before it is written.
_CANNOT = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)

Bytes = npt.NDArray[np.uint8]


@functools.cache
def boot() -> str:
    """Name this boot of the machine; where the system does not, give a name that no other process has."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"process {uuid.uuid4()}"


def open_file(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open a file unless it is a link, which may lead out of the bank."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def allocate(file: int, size: int) -> None:
    """Make an empty file longer, on the disk at once where the system can, so that a full one is found early.

    Raises:
        OSError: there is no room.
    """
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, size)
            return
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
    os.ftruncate(file, size)


def write_whole(file: int, content: npt.NDArray[Any], begin: int) -> None:
    """Write all of an array at an offset; a system call may take a part.

    Raises:
        OSError: there is no room; a part may stand there.
    """
    rest = memoryview(np.ascontiguousarray(content).data).cast("B")
    while rest:
        written = os.pwrite(file, rest, begin)
        rest, begin = rest[written:], begin + written


def bits_of(rows: Tensor, width: int) -> Bytes:
    """View contiguous rows as bytes, [n, width]."""
    bits: Bytes = rows.view(len(rows), width // rows.itemsize).view(torch.uint8).numpy()
    return bits


def sums_of(bits: Bytes) -> npt.NDArray[np.uint64]:
    """Sum the bits of each row as the largest words that fit it, modulo 2^64."""
    words = bits.view(f"<u{math.gcd(bits.shape[1], 8)}")
    sums: npt.NDArray[np.uint64] = words.sum(axis=1, dtype=np.uint64)
    return sums


def fetched(rows: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], torch.cuda.Event | None]:
    """Bring rows to the CPU.

    Args:
        rows: [n, ...] by name.

    Returns:
        The rows; and where they come from a GPU the event after which they are there.
    """
    if not any(tensor.is_cuda for tensor in rows.values()):
        return {name: tensor.to("cpu") for name, tensor in rows.items()}, None
    here = {
        name: torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
        for name, tensor in rows.items()
    }
    arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrival.record()
    return here, arrival


def number_of(error: BaseException) -> int | None:
    """Give the system's number of an error that may have been wrapped for the user."""
    number = getattr(error, "errno", None)
    cause = error.__cause__
    return number if isinstance(number, int) or cause is None else number_of(cause)


def reason_of(error: BaseException) -> str:
    """Say in a few words why something failed: the system's, if it is the system's error."""
    number = number_of(error)
    return str(error).splitlines()[0] if number is None else os.strerror(number)


def size_of(path: Path) -> int:
    """Give the size of a file in bytes, 0 where there is none."""
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except OSError:
        return 0


def bytes_on_disk(folder: Path) -> int:
    """Count the bytes that the files below a folder take on the disk; links are not followed."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name), follow_symlinks=False).st_blocks * 512
            except OSError:
                continue
    return total

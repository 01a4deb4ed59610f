"""What is around a step and changes its time: the allocator's thresholds and torch's flags.

They are set between steps, because kdzoo and a user who changes nothing live in different surroundings.
"""

from __future__ import annotations

import ctypes
import os
import platform
from dataclasses import dataclass
from typing import Any

import torch

from kdzoo.training.runtime import environment

# glibc's numbers of the parameters of mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
MAPPED_BLOCKS = 65536  # as many as glibc maps by default
# Above this size glibc's threshold does not grow by itself: DEFAULT_MMAP_THRESHOLD_MAX of malloc.c, 64 bits.
SETTLED = 32 << 20
RAISED = 1 << 30
SMALLEST_HOLE = 1 << 20


class Allocator:
    """glibc's thresholds, which say what becomes of freed memory.

    Attributes:
        raised: whether large blocks stay with the process; None until it is set.
    """

    def __init__(self) -> None:
        self.raised: bool | None = None
        self._libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
        self._given_back = 0
        self._plugs: list[tuple[int, int]] = []
        if self._libc is not None:
            self._libc.malloc.restype = self._libc.sbrk.restype = ctypes.c_void_p
            self._libc.malloc.argtypes = [ctypes.c_size_t]
            self._libc.free.argtypes = [ctypes.c_void_p]
            self._libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
            self._libc.sbrk.argtypes = [ctypes.c_ssize_t]

    @property
    def there(self) -> bool:
        """Say whether the C library is glibc."""
        return self._libc is not None

    def set(self, raised: bool) -> None:
        """Let freed memory stay with the process, or go back as glibc does it unless it is told otherwise.

        glibc's own thresholds move: they follow the largest blocks that were freed, up to 32 MiB. They are
        set to where a training brings them at once, since they stay put after the first mallopt. What each
        setting would have of memory is made again, so that no step pays for the one before.

        Args:
            raised: whether large blocks are kept.
        """
        if self._libc is None or raised == self.raised:
            return
        if raised:
            self._thresholds(RAISED, 2**31 - 1)
            # Pages that the process would have kept are asked for again: above all else, then in the holes.
            above = self._given_back - sum(size for _, size in self._plugs)
            while above > 0:
                size = min(above, RAISED // 2)
                self._plugs.append((self._libc.malloc(size), size))
                above -= size
            for place, size in self._plugs:
                self._libc.memset(place, 0, size)
                self._libc.free(place)
            self._plugs = []
        else:
            before = _resident()
            self._plug()
            self._given_back = before - _resident()
            self._thresholds(SETTLED, 2 * SETTLED)
        self.raised = raised

    def _thresholds(self, mmap: int, trim: int) -> None:
        assert self._libc is not None
        self._libc.mallopt(M_MMAP_MAX, MAPPED_BLOCKS)
        if not self._libc.mallopt(M_MMAP_THRESHOLD, mmap):
            # Older glibc takes no threshold above 32 MiB, but can do without mapped blocks altogether.
            self._libc.mallopt(M_MMAP_MAX, 0)
        self._libc.mallopt(M_TRIM_THRESHOLD, trim)

    def _plug(self) -> None:
        """Give the memory of the heap's holes back and take the holes, so that no step finds a place there: a
        process that never kept freed memory has none, and glibc looks there before it asks the system."""
        assert self._libc is not None
        self._thresholds(RAISED, 2**31 - 1)
        self._libc.malloc_trim(0)
        size = RAISED // 2
        while size >= SMALLEST_HOLE:
            end = self._libc.sbrk(0)
            place = self._libc.malloc(size)
            if place is not None and place < end == self._libc.sbrk(0):
                self._plugs.append((place, size))
                continue
            self._libc.free(place)
            self._libc.malloc_trim(0)
            size //= 2


ALLOCATOR = Allocator()


def _resident() -> int:
    """Give the bytes of this process that are in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Surroundings:
    """What a contestant's steps are taken in.

    Attributes:
        raised: whether the allocator's thresholds are raised.
        kdzoo: whether torch's flags are those of kdzoo's runtime; else they are as torch comes.
    """

    raised: bool = True
    kdzoo: bool = True

    def enter(self, device: torch.device) -> None:
        """Set them; the process's own runtime must be kdzoo's.

        Args:
            device: where the work is done; torch's flags are of a GPU.
        """
        ALLOCATOR.set(self.raised)
        if device.type == "cuda":
            torch.use_deterministic_algorithms(self.kdzoo, warn_only=True)
            torch.backends.cudnn.allow_tf32 = not self.kdzoo


def processor_flags() -> set[str]:
    """Give the processor's flags; none where Linux does not tell them."""
    try:
        with open("/proc/cpuinfo") as file:
            return set(next(line for line in file if line.startswith("flags")).split(":", 1)[1].split())
    except (OSError, StopIteration):
        return set()


def machine(device: torch.device) -> dict[str, Any]:
    """Describe where the steps were taken."""
    flags = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        **environment(device),
        "cores": os.cpu_count(),
        "flags": sorted(processor_flags() & set(flags)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "allocator": "glibc" if ALLOCATOR.there else "not glibc: its thresholds are as they come",
    }

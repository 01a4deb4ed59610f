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
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Above this size glibc's threshold does not grow by itself: DEFAULT_MMAP_THRESHOLD_MAX of malloc.c, 64 bits.
SETTLED = 32 << 20
RAISED = 1 << 30
BLOCK = 64 << 20


class Allocator:
    """glibc's thresholds, which say what becomes of freed memory.

    Attributes:
        raised: whether large blocks stay with the process; None until it is set.
    """

    def __init__(self) -> None:
        self.raised: bool | None = None
        self._libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
        self._given_back = 0

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
        self._libc.mallopt(M_MMAP_THRESHOLD, RAISED if raised else SETTLED)
        self._libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1 if raised else 2 * SETTLED)
        if raised:
            # Pages that the process would have kept are asked for again, in blocks that stay in its heap.
            blocks = [torch.zeros(BLOCK, dtype=torch.uint8) for _ in range(self._given_back // BLOCK)]
            del blocks
        else:
            before = _resident()
            self._libc.malloc_trim(0)
            self._given_back = max(self._given_back, before - _resident())
        self.raised = raised


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

    def enter(self) -> None:
        """Set them; the process's own runtime must be kdzoo's."""
        ALLOCATOR.set(self.raised)
        if torch.cuda.is_available():
            torch.use_deterministic_algorithms(self.kdzoo, warn_only=True)
            torch.backends.cudnn.allow_tf32 = not self.kdzoo


def has_bf16(device: torch.device) -> bool:
    """Say whether a device computes in bfloat16 faster than in float32: a GPU's cores, avx512_bf16 or amx."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool({"avx512_bf16", "amx_bf16"} & processor_flags())


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

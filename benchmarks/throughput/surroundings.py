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


def libc() -> ctypes.CDLL | None:
    """Give glibc, or None where the C library is another."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def set_thresholds(raised: bool) -> None:
    """Let freed memory stay with the process, or go back as glibc does it unless it is told otherwise.

    glibc's own thresholds move: they follow the largest blocks that were freed, up to 32 MiB. They are set to
    where a training brings them at once, since they stay put after the first mallopt.

    Args:
        raised: whether large blocks are kept.
    """
    if (c := libc()) is None:
        return
    c.mallopt(M_MMAP_THRESHOLD, RAISED if raised else SETTLED)
    c.mallopt(M_TRIM_THRESHOLD, 2**31 - 1 if raised else 2 * SETTLED)
    if not raised:
        # What the raised thresholds kept would otherwise serve the next step.
        c.malloc_trim(0)


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
        set_thresholds(self.raised)
        if torch.cuda.is_available():
            torch.use_deterministic_algorithms(self.kdzoo, warn_only=True)
            torch.backends.cudnn.allow_tf32 = not self.kdzoo


def has_bf16(device: torch.device) -> bool:
    """Say whether a device computes in bfloat16 faster than in float32: a GPU's cores, avx512_bf16 or amx."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
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
        "allocator": "glibc" if libc() else "not glibc: its thresholds are as they come",
    }

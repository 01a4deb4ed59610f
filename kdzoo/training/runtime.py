"""The process around a training: threads, generators and deterministic kernels, set for its time and then
put back."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.metadata
import os
import platform
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from kdzoo import __version__
from kdzoo.checks import usage

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


@contextlib.contextmanager
def runtime(device: torch.device, threads: int | None) -> Iterator[None]:
    """Run a training in a process of its own making, and leave the process as it was, but for the memory
    that its allocator keeps.

    Args:
        device: on CUDA deterministic kernels are switched on, without which no run repeats.
        threads: CPU threads; None leaves torch's choice.

    Raises:
        UsageError: the number of threads is not positive.
    """
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise usage("kdzoo", "threads", "an integer of at least 1", threads)
    before = torch.get_num_threads()
    deterministic = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    benchmarked, tf32 = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32
    matmul, filling = torch.get_float32_matmul_precision(), torch.utils.deterministic
    filled = filling.fill_uninitialized_memory  # type: ignore[attr-defined]
    devices = [device] if device.type == "cuda" else []
    keep_memory()
    with contextlib.ExitStack() as attention, torch.random.fork_rng(devices=devices):
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            # float32 means float32: the caller's process may have chosen faster and coarser products.
            torch.set_float32_matmul_precision("highest")
            if device.type == "cuda":
                torch.backends.cudnn.allow_tf32 = False
                # cuBLAS reads it when its first handle is made.
                os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
                torch.backends.cudnn.benchmark = False
                torch.use_deterministic_algorithms(True, warn_only=True)
                # Nothing here reads what was not written; filling it takes a kernel for every tensor.
                filling.fill_uninitialized_memory = False  # type: ignore[attr-defined]
                # Attention's other kernels have no deterministic backward where they only warn.
                attention.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield
        finally:
            torch.set_num_threads(before)
            torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
            torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = benchmarked, tf32
            torch.set_float32_matmul_precision(matmul)
            filling.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def seed_generators(number: int, device: torch.device) -> None:
    """Seed the default generators that a step draws from, of the CPU and of its device.

    `torch.manual_seed` seeds those of every kind of device, and formats the call stack for each kind that is
    not there.

    Args:
        number: the seed.
        device: of the step.
    """
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(number)


def keep_memory() -> bool:
    """Let glibc keep freed blocks for the next step, which asks for the same ones again.

    By default it gives large blocks back at once, and the kernel clears every page anew: half of the time of
    a convolutional network's pass on a CPU. It changes no number. Another allocator, or a choice of the
    user's own in the environment, is left alone.

    Returns:
        Whether it does now.
    """
    chosen = any(name.startswith("MALLOC_") and name.endswith("_") for name in os.environ)
    if platform.libc_ver()[0] != "glibc" or chosen or "malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    # Older glibc takes no threshold above 32 MiB, but can do without mapped blocks altogether.
    mapped = mallopt(_M_MMAP_THRESHOLD, 2**30) or mallopt(_M_MMAP_MAX, 0)
    return bool(mapped and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def environment(device: torch.device) -> dict[str, Any]:
    """Describe where numbers were obtained: versions, device, threads."""
    return {
        "versions": {"python": platform.python_version()} | _versions(),
        "platform": " ".join([platform.system(), platform.machine(), *platform.libc_ver()]),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        # On CUDA deterministic kernels are taken where there are some, which is no promise.
        "deterministic": device.type == "cpu",
    }


@functools.cache
def _versions() -> dict[str, str]:
    packages = ("torch", "torchvision", "timm", "mmengine", "numpy")
    # A checkout that is only on the path has no metadata.
    return {"kdzoo": __version__, **{name: importlib.metadata.version(name) for name in packages}}


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

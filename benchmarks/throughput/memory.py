"""Peak memory of a cohort's tensors: a process of its own for each number of methods, since a peak only
grows."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from kdzoo.training.runtime import runtime

from . import ours
from .pair import METHODS, Pair
from .surroundings import Surroundings

STEPS = 2
PRECISION = "float32"
# A peak is the costliest step's, and what all other members keep meanwhile: that step is in every cohort.
COSTLIEST = "fitnet"
ORDER = (COSTLIEST, *(method for method in METHODS if method != COSTLIEST))


def peak(device: torch.device) -> int:
    """Give the peak memory so far, in bytes: torch's on a GPU, else the process's.

    Args:
        device: where the work was done.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def measure_one(pair: Pair, count: int, precision: str) -> int:
    """Take two steps of a cohort and give the peak of its tensors, in bytes.

    Args:
        pair: networks and data.
        count: methods, of `ORDER`.
        precision: "float32" or "bf16".
    """

    def work() -> None:
        with ours.cohort_of(pair, ORDER[:count], precision) as cohort:
            steps = ours.Steps(cohort)
            for _ in range(STEPS):
                steps()

    with runtime(pair.device, None):
        Surroundings().enter(pair.device)
        if pair.device.type == "cpu":
            return allocated(work)
        work()
        return peak(pair.device)


def allocated(work: Callable[[], None]) -> int:
    """Give the most bytes that tensors on the CPU have at a time while something is done.

    A process's peak has what the C library keeps and what other threads happen to hold; torch's own count is
    the same each time, as that of a GPU is.

    Args:
        work: is done once.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as watched:
        work()
    now = most = 0
    for event in watched.profiler.kineto_results.events():
        if event.name() == "[memory]" and event.device_type() == DeviceType.CPU:
            now += event.nbytes()
            most = max(most, now)
    return most


def measure_all(options: Namespace, work: Path, counts: list[int]) -> dict[str, int]:
    """Give the peak for every number of methods, in bytes, each of a process of its own.

    Args:
        options: of the command.
        work: where artifacts are ready.
        counts: numbers of methods.
    """
    found: dict[str, int] = {}
    for count in counts:
        command: list[Any] = [
            sys.executable, "-m", "benchmarks.throughput", "memory", "--benchmark", options.benchmark,
            "--count", count, "--work-dir", work, "--epoch-steps", options.epoch_steps, "--lr", options.lr,
        ]  # fmt: skip
        for name in ("data_root", "device", "threads"):
            if getattr(options, name) is not None:
                command += [f"--{name.replace('_', '-')}", getattr(options, name)]
        ended = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, text=True, check=True)
        found[str(count)] = json.loads(ended.stdout.splitlines()[-1])["peak"]
    return found

"""Peak memory of a cohort: a process of its own for each number of methods, since a peak only grows."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from kdzoo.training.runtime import runtime

from . import ours
from .pair import METHODS, Pair
from .surroundings import Surroundings

STEPS = 2


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
    """Take two steps of a cohort and give the peak of this process, in bytes.

    Args:
        pair: networks and data.
        count: methods, of the fixed order.
        precision: "float32" or "bf16".
    """
    with runtime(pair.device, None):
        Surroundings().enter(pair.device)
        with ours.cohort_of(pair, METHODS[:count], precision) as cohort:
            steps = ours.Steps(cohort)
            for _ in range(STEPS):
                steps()
    return peak(pair.device)


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

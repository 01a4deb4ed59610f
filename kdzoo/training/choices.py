"""What users choose for a run beside the benchmark: seeds, device, workers."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence

import torch

from kdzoo.checks import usage


def parse_seeds(seeds: int | str | Sequence[int]) -> tuple[int, ...]:
    """Read seeds: a count n stands for 0 to n - 1, a list (or a text with commas) for itself.

    Raises:
        UsageError: anything else, or a seed twice.
    """
    accepted = (
        "a count such as 3 (seeds 0, 1, 2) or a list such as 0,5 or 7, of different integers under 2^31"
    )
    try:
        if isinstance(seeds, str):
            parts = [part for part in seeds.split(",") if part.strip()]
            found: Sequence[int] = [int(part) for part in parts] if "," in seeds else range(int(seeds))
        else:
            found = range(seeds) if isinstance(seeds, int) else [operator.index(s) for s in seeds]
        # A count that long is a seed whose comma was forgotten.
        if len(found) > 10_000:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise usage("kdzoo", "seeds", accepted, seeds) from None
    if not found or len(set(found)) < len(found) or not all(0 <= s < 2**31 for s in found):
        raise usage("kdzoo", "seeds", accepted, seeds)
    return tuple(found)


def choose_device(name: str | None) -> torch.device:
    """Give the device by name, or the best there is.

    Raises:
        UsageError: there is no such device here.
    """
    cuda = torch.cuda.is_available()
    if name is None:
        return torch.device("cuda" if cuda else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type == "cpu" or (
        cuda and device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()
    ):
        return device
    here = (
        f"cpu or cuda:0 to cuda:{torch.cuda.device_count() - 1}" if cuda else "cpu, as torch sees no GPU here"
    )
    raise usage("kdzoo", "device", here, name)


def check_workers(workers: int | None) -> int:
    """Give the number of processes that decode streamed pictures.

    Args:
        workers: as the user says; None takes one for each processor that this process may use, at most 8.

    Raises:
        UsageError: it is negative, or no integer.
    """
    if workers is None:
        allowed = getattr(os, "sched_getaffinity", None)
        return min(8, len(allowed(0)) if allowed else os.cpu_count() or 1)
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise usage("kdzoo", "workers", "an integer of at least 0", workers)
    return workers

"""Work on many files by threads, with results in the order of the files."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from kdzoo.data.trees import File

PIECE = 16  # files that a thread takes in a row

T = TypeVar("T")


def in_order(work: Callable[[Sequence[File]], T], files: Sequence[File], threads: int) -> Iterator[T]:
    """Work on pieces of some files by threads, not further ahead of who takes the results than the threads
    need.

    Args:
        work: is given `PIECE` files, or what is left; it runs in several threads.
        files: of which order.
        threads: how many.

    Yields:
        What `work` gives, piece after piece.
    """
    waiting: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="files")
    try:
        for start in range(0, len(files), PIECE):
            waiting.append(pool.submit(work, files[start : start + PIECE]))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def processors() -> int:
    """Give the number of processors that this process may use, 16 at most."""
    allowed = getattr(os, "sched_getaffinity", None)
    return min(16, len(allowed(0)) if allowed else os.cpu_count() or 1)

"""Processes that decode pictures: started, ended for certain, and their deaths told in a line."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar

import torch

from kdzoo.checks import KdzooError
from kdzoo.data.pictures import take_turns

I = TypeVar("I")  # noqa: E741
T = TypeVar("T")

# In what torch says of a process that died or cannot answer.
_DEAD = re.compile(
    "exited unexpectedly|killed by signal|shared memory|allocate memory|too many open files|ancdata",
    re.IGNORECASE,
)


class Loading(Generic[I, T]):
    """One pass of batches through torch's DataLoader, which `close` ends.

    Args:
        decoder: from an item of a batch to what it becomes.
        collate: from those of a batch to what is given out.
        batches: lists of items.
        workers: processes that do it; 0 does it in this one.
        pinned: whether results are put into memory that a GPU reads by itself.

    Raises:
        KdzooError: the processes cannot be started.
    """

    def __init__(
        self, decoder: torch.utils.data.Dataset[Any], collate: Callable[[list[Any]], T],
        batches: Iterator[list[I]], *, workers: int, pinned: bool,
    ) -> None:  # fmt: skip
        self._workers = workers
        self._iterator: Iterator[T] | None = None
        loader = torch.utils.data.DataLoader(
            decoder,
            batch_sampler=_Once(batches),
            num_workers=workers,
            collate_fn=collate,
            pin_memory=pinned,
            # A lock for these alone: who dies while it holds one never gives it back.
            worker_init_fn=partial(_begin, torch.multiprocessing.get_context().Lock()) if workers else None,
            # Seeds the loader's own draws, which nobody uses: the default generator is left alone.
            generator=torch.Generator(),
        )
        with _told(workers), _signals_left_alone():
            self._iterator = iter(loader)

    def __iter__(self) -> Loading[I, T]:
        return self

    def __next__(self) -> T:
        """Give the next batch.

        Raises:
            KdzooError: a process died.
        """
        if self._iterator is None:
            raise StopIteration
        with _told(self._workers):
            found = next(self._iterator, None)
        if found is None:
            raise StopIteration
        return found

    def close(self) -> None:
        """End the processes; again, it does nothing."""
        iterator, self._iterator = self._iterator, None
        # torch ends them when the iterator is garbage. That may be late, and in a process that was forked
        # meanwhile, which has no right to.
        if end := getattr(iterator, "_shutdown_workers", None):
            end()


def _begin(lock: Any, number: int) -> None:
    """Begin a process: what is large is decoded by one of all of them at a time."""
    take_turns(lock)


class _Once(torch.utils.data.Sampler[list[I]]):
    """Passes batches on, to one who asks once."""

    def __init__(self, batches: Iterator[list[I]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[I]]:
        return self._batches


@contextmanager
def _signals_left_alone() -> Iterator[None]:
    """Keep torch from raising in the midst of a member's step when a process dies: it is seen when the next
    batch is asked for, where it is nobody's fault."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGCHLD, before)


@contextmanager
def _told(workers: int) -> Iterator[None]:
    """Say in a line that processes died, or cannot be started."""
    try:
        yield
    except (RuntimeError, OSError, EOFError, MemoryError) as error:
        # A process that dies while it hands a batch over cuts the connection, by whatever error.
        if not workers or (isinstance(error, RuntimeError) and not _DEAD.search(str(error))):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        lines = lines or [type(error).__name__]
        # What a process raised comes with its traceback, the error itself last.
        said = lines[-1 if lines[0].startswith("Caught ") else 0][:120]
        raise KdzooError(
            f"data: of the {workers} processes that decode pictures one died or cannot work ({said}). Most "
            "likely the memory is full, or the shared memory (/dev/shm) too small. Run the same command "
            "again with fewer --workers: it goes on from the last checkpoint."
        ) from None

"""The next batch, and what is kept of the teacher for it, while this one is trained on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kdzoo.data.pipeline import Feed
from kdzoo.outputs import Batch
from kdzoo.training.networks import SharedTeacher

Place = tuple[int, int]


class Ahead:
    """Makes batches one step ahead, in a thread; a batch is the same whoever makes it, and when.

    The thread computes alone. With helpers of its own there would be more OpenMP threads than processors,
    which then sleep at the end of every operation instead of waiting a moment: the step's small ones, RKD's
    above all, would take several times as long.

    Args:
        images: the training images.
        teacher: whose answers may be kept in a bank.
        epochs: how many there are: nothing is made beyond the last.
    """

    def __init__(self, images: Feed, teacher: SharedTeacher | None, epochs: int) -> None:
        self._images = images
        self._teacher = teacher
        self._epochs = epochs
        self._pool: ThreadPoolExecutor | None = None
        self._next: tuple[Place, Future[tuple[Batch | None, Any]]] | None = None

    def take(self, epoch: int, step: int) -> tuple[Batch, Any]:
        """Give a batch and what the teacher prepared for it, and begin with the one after it.

        Args:
            epoch: counts from 0.
            step: counts from 0.
        """
        place = (epoch, step)
        if self._next is not None and self._next[0] == place:
            batch, prepared = self._next[1].result()
        else:
            batch, prepared = self._make(place)
        # Pictures from files have processes of their own that work ahead.
        batch = self._images.batch(epoch, step) if batch is None else batch
        following = (epoch, step + 1) if step + 1 < self._images.steps else (epoch + 1, 0)
        if (self._next is None or self._next[0] != following) and following[0] < self._epochs:
            if self._pool is None:
                threads = torch.get_num_threads()
                self._pool = ThreadPoolExecutor(
                    1, thread_name_prefix="kdzoo-ahead", initializer=torch.set_num_threads, initargs=(1,)
                )
                # It is told for good when it first looks; all threads that look later are told the last word.
                self._pool.submit(torch.get_num_threads).result()
                torch.set_num_threads(threads)
            self._next = following, self._pool.submit(self._make, following)
        return batch, prepared

    def close(self) -> None:
        """End the thread; who takes again starts another."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = self._next = None

    def _make(self, place: Place) -> tuple[Batch | None, Any]:
        indices: npt.NDArray[np.int64] = self._images.chosen(*place)
        with torch.no_grad():
            batch = None if self._images.streams else self._images.batch(*place)
            return batch, None if self._teacher is None else self._teacher.prepare(*place, indices)

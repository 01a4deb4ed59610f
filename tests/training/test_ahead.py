"""The next batch is made in a thread that leaves the processors to the step."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from kdzoo.outputs import Batch
from kdzoo.training.ahead import Ahead


class Images:
    """Training images that remember in which threads their batches were made, and with how many helpers."""

    steps, streams = 2, False

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []

    def chosen(self, epoch: int, step: int) -> np.ndarray:
        return np.arange(4)

    def batch(self, epoch: int, step: int) -> Batch:
        self.made.append((threading.current_thread().name, torch.get_num_threads()))
        return Batch(torch.full((4, 1), 2.0 * epoch + step), torch.zeros(4, dtype=torch.int64), None)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_what_is_made_ahead_takes_no_helpers_from_the_step() -> None:
    images = Images()
    ahead = Ahead(images, None, epochs=2)  # type: ignore[arg-type]
    places = [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [float(ahead.take(*place)[0].images[0]) for place in places] == [0.0, 1.0, 2.0, 3.0]
    first, *others = images.made
    assert first == (threading.current_thread().name, 2)
    assert len(others) == 3
    assert all(name.startswith("kdzoo-ahead") and helpers == 1 for name, helpers in others)
    with ThreadPoolExecutor(1) as later:
        assert [torch.get_num_threads(), later.submit(torch.get_num_threads).result()] == [2, 2]
    ahead.close()

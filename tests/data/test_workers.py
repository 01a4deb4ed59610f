"""Processes that decode pictures: none outlives its use, and one that dies is told in a line."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdzoo.checks import KdzooError
from kdzoo.data import load_dataset
from kdzoo.data.stream import Stream, feed_of
from kdzoo.data.views import Views
from kdzoo.data.workers import Loading


@pytest.fixture
def alive() -> Callable[[], int]:
    """Says how many processes there are beside those of other tests."""
    before = set(multiprocessing.active_children())
    return lambda: len(set(multiprocessing.active_children()) - before)


@pytest.fixture
def images(tmp_path: Path, draw: Callable[..., np.ndarray]) -> Iterator[Stream]:
    for split, count in (("train", 12), ("test", 1)):
        for name in ("cat", "dog"):
            place = tmp_path / "photos" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(draw(number, (20, 20))).save(place / f"{number}.png")
    data = load_dataset("image_folder", tmp_path / "photos", {"size": 16, "stream": True})
    mean, std = data.statistics
    found = feed_of(
        data.train, views=Views(flip=True), workers=2, mean=mean, std=std, batch_size=3, seed=0, device="cpu"
    )
    assert isinstance(found, Stream)
    yield found
    found.close()


def test_no_process_outlives_its_use(images: Stream, alive: Callable[[], int]) -> None:
    with images:
        first = images.batch(0, 0).images
        assert alive() == 2
        images.clean([0, 1])
        assert alive() == 2
        # Another position: the processes of the old one end.
        images.batch(0, 5)
        assert alive() == 2
        chunks = images.chunks(3)
        next(chunks)
        assert alive() == 4
    assert alive() == 0
    # Closed, it can be asked again.
    assert torch.equal(images.batch(0, 0).images, first)
    images.close()
    images.close()
    assert alive() == 0


def test_no_process_outlives_a_fault(images: Stream, alive: Callable[[], int]) -> None:
    with pytest.raises(ZeroDivisionError), images:  # noqa: PT012
        images.batch(0, 0)
        raise ZeroDivisionError
    assert alive() == 0
    with pytest.raises(IndexError):
        images.clean([0, 10**6])
    assert alive() == 0


def test_a_process_that_is_killed_is_told_in_a_line(images: Stream, alive: Callable[[], int]) -> None:
    before = multiprocessing.active_children()
    images.batch(0, 0)
    for child in set(multiprocessing.active_children()) - set(before):
        os.kill(child.pid or 0, signal.SIGKILL)
    # Whoever works meanwhile is not disturbed.
    time.sleep(0.2)
    with pytest.raises(KdzooError) as caught:
        list(map(partial(images.batch, 0), range(1, images.steps)))
    text = str(caught.value)
    assert "of the 2 processes that decode pictures one died" in text
    assert "fewer --workers: it goes on from the last checkpoint" in text
    assert "\n" not in text
    assert alive() == 0


class Failing(torch.utils.data.Dataset):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getitem__(self, item: int) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "memory"),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1>"), "unable to allocate"),
        (OSError(12, "Cannot allocate memory"), "Cannot allocate memory"),
    ],
)
def test_memory_that_is_full_is_told_in_a_line(error: Exception, words: str) -> None:
    loading = Loading(Failing(error), list, iter([[1]]), workers=1, pinned=False)
    with pytest.raises(KdzooError, match=words) as caught:
        next(loading)
    assert "\n" not in str(caught.value)
    loading.close()


def test_any_other_fault_keeps_its_kind(alive: Callable[[], int]) -> None:
    loading = Loading(Failing(ZeroDivisionError("x")), list, iter([[1]]), workers=1, pinned=False)
    with pytest.raises(ZeroDivisionError):
        next(loading)
    loading.close()
    assert alive() == 0


def test_what_the_program_does_with_its_own_children_stays(images: Stream) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    images.batch(0, 0)
    assert signal.getsignal(signal.SIGCHLD) == before

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small operations gain nothing by threads, and wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def idx(array: np.ndarray, magic: bytes | None = None) -> bytes:
    """Spell an IDX file of unsigned bytes, a second time and apart from the reader."""
    head = magic or bytes([0, 0, 8, array.ndim])
    return head + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def write_fashion() -> Write:
    """A function that writes four small files and lets a test replace one of them by other bytes."""

    def write(folder: Path, *, zipped: bool = False, **replaced: bytes) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        draw = np.random.default_rng(0)
        for part, count in (("train", 40), ("t10k", 20)):
            contents = {
                f"{part}_images": (f"{part}-images-idx3-ubyte", idx(draw.integers(0, 256, (count, 28, 28)))),
                f"{part}_labels": (f"{part}-labels-idx1-ubyte", idx(np.arange(count) % 10)),
            }
            for name, (file, content) in contents.items():
                content = replaced.get(name, content)
                path = folder / (file + ".gz" if zipped else file)
                path.write_bytes(gzip.compress(content) if zipped else content)
        return folder

    return write


@pytest.fixture
def as_idx() -> Callable[..., bytes]:
    return idx

import gzip
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of its own for every test."""
    monkeypatch.setenv("KDZOO_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


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


def drawn(seed: int, size: tuple[int, int] = (32, 32), channels: int = 3) -> np.ndarray:
    """Draw an image [H, W, C], another one for each seed."""
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8)


@pytest.fixture
def draw() -> Callable[..., np.ndarray]:
    return drawn


@pytest.fixture
def write_folders() -> Write:
    """A function that writes small images: split, class and count, as train={"cat": 2}.

    The images of a class are 0.png, 1.png, ...; no two of all are alike.
    """

    def write(root: Path, size: tuple[int, int] = (32, 32), **splits: Mapping[str, int]) -> Path:
        number = 0
        for split, classes in splits.items():
            for name, count in classes.items():
                folder = root / split / name
                os.makedirs(folder, exist_ok=True)
                for index in range(count):
                    number += 1
                    Image.fromarray(drawn(number, size)).save(folder / f"{index}.png")
        return root

    return write

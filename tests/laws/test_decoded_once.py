"""Law 3 for decoded images: a kill, a full disk, another process leave nothing that is taken for whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tinyzoo import Bench

from kdzoo.data import load_dataset


@pytest.fixture
def command(make_bench: Callable[..., Bench], tmp_path: Path) -> list[str]:
    """A command that loads a folder of 40 images, and trains nothing."""
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for number in range(10):
                array = draw.integers(0, 256, (16, 20, 3), dtype=np.uint8)
                Image.fromarray(array).save(folder / f"{number}.png")
    bench = make_bench("data = dict(type='image_folder', size=16)\n")
    return bench.command("scratch", "--dry-run", "--data-root", str(tmp_path / "images"))


def kept(cache: Path) -> np.ndarray:
    """Give the decoded images, and hold that nothing else lies about."""
    [path] = cache.glob("decoded/*/*.npy")
    assert sorted(p.name for p in path.parent.iterdir()) == [".lock", "images.npy", "index.json"]
    return np.load(path)


def start(children: Any, command: list[str], tmp_path: Path, cache: str, **options: Any) -> int:
    environment = {"KDZOO_DATA": str(tmp_path / cache)}
    return children.start(command, tmp_path / f"log-{cache}", environment=environment, **options)


def test_a_kill_at_any_moment_leaves_nothing_that_is_taken_for_whole(
    command: list[str], children: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert children.wait(start(children, command, tmp_path, "undisturbed")) == 0
    expected = kept(tmp_path / "undisturbed")
    assert "40 of 40 images were resized" in (tmp_path / "log-undisturbed.out").read_text()
    events = int((tmp_path / "log-undisturbed.events").read_text())
    # Two files, each with three calls that have a moment before and one after.
    assert events >= 12
    for event in range(1, events + 1):
        cache = tmp_path / f"killed{event}"
        assert children.wait(start(children, command, tmp_path, cache.name, kill_at=event)) == -9
        monkeypatch.setenv("KDZOO_DATA", str(cache))
        data = load_dataset("image_folder", tmp_path / "images", {"size": 16})
        np.testing.assert_array_equal(np.concatenate([data.train.images, data.test.images]), expected)
        np.testing.assert_array_equal(kept(cache), expected)


def test_processes_that_start_at_once_give_the_same_images(
    command: list[str], children: Any, tmp_path: Path
) -> None:
    pids = [start(children, command, tmp_path, "shared") for _ in range(4)]
    assert [children.wait(pid) for pid in pids] == [0] * 4
    assert kept(tmp_path / "shared").shape == (40, 3, 16, 16)


def test_a_full_disk_ends_in_one_line_that_names_the_variable(
    command: list[str], children: Any, tmp_path: Path
) -> None:
    assert children.wait(start(children, command, tmp_path, "full", largest_file=10_000)) == 1
    [line] = (tmp_path / "log-full.err").read_text().splitlines()
    assert line.startswith(f"cannot write {tmp_path / 'full' / 'decoded'}")
    assert "Make room there or set KDZOO_DATA to a folder elsewhere" in line
    assert not list((tmp_path / "full").rglob("*.part"))
    assert children.wait(start(children, command, tmp_path, "full")) == 0
    assert len(kept(tmp_path / "full")) == 40

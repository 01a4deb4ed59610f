"""Hashes of files that stay where they are: read once, right after any change, and never in the way."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kdzoo.checks import UsageError
from kdzoo.data import contents, load_dataset, progress, threads
from kdzoo.data.contents import content_hashes
from kdzoo.data.trees import File, Folder, files_below


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files that were written a moment ago be remembered."""
    monkeypatch.setattr(contents, "SETTLED", -1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(40):
        path = tmp_path / "root" / "ab"[number % 2] / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * (number + 1))
    return tmp_path / "root"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that are read, as they are."""
    names: list[str] = []
    real = contents.open_regular

    def spy(path: str) -> object:
        names.append(os.path.basename(path))
        return real(path)

    monkeypatch.setattr(contents, "open_regular", spy)
    return names


def listed(root: Path) -> list[File]:
    return [*files_below(Folder("x", root), "a"), *files_below(Folder("x", root), "b")]


def hashes(root: Path) -> list[str]:
    return [row.tobytes().hex() for row in content_hashes("data set x", root, listed(root))]


def expected(root: Path) -> list[str]:
    return [hashlib.sha256((root / file.name).read_bytes()).hexdigest() for file in listed(root)]


def test_every_file_is_read_once_and_remembered(root: Path, opened: list[str]) -> None:
    assert hashes(root) == expected(root)
    assert len(opened) == len(set(opened)) == 40
    opened.clear()
    assert hashes(root) == expected(root)
    assert opened == []


def test_only_what_changed_is_read_again(root: Path, opened: list[str]) -> None:
    hashes(root)
    opened.clear()
    path = root / "a" / "6.bin"
    before = path.stat()
    path.write_bytes(bytes([99]) * before.st_size)
    # As programs do that restore dates: size and date are what they were.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    (root / "b" / "new.bin").write_bytes(b"new")
    (root / "b" / "1.bin").unlink()
    os.replace(root / "b" / "3.bin", root / "b" / "5.bin")
    assert hashes(root) == expected(root)
    assert sorted(opened) == ["5.bin", "6.bin", "new.bin"]


def test_a_file_that_was_written_a_moment_ago_is_not_remembered(
    root: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within one tick of the clock it may be written once more, and nothing tells the two apart."""
    monkeypatch.setattr(contents, "SETTLED", 60 * 10**9)
    for _ in range(2):
        opened.clear()
        assert hashes(root) == expected(root)
        assert len(opened) == 40


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p.write_bytes(b""),
        lambda p: p.write_bytes(p.read_bytes()[:-1]),
        lambda p: p.write_bytes(p.read_bytes()[:-48]),
        lambda p: p.write_bytes(p.read_bytes()[:100] + b"\0" + p.read_bytes()[101:]),
        lambda p: p.write_bytes(b"K" + p.read_bytes()[1:]),
        lambda p: (p.unlink(), p.mkdir()),
        lambda p: p.unlink(),
    ],
)
def test_a_damaged_memory_is_made_again(
    root: Path, cache: Path, damage: Callable[[Path], object], opened: list[str]
) -> None:
    hashes(root)
    opened.clear()
    (kept,) = (cache / "hashes").glob("*.bin")
    damage(kept)
    assert hashes(root) == expected(root)
    assert len(opened) == 40


def test_a_cache_that_cannot_be_written_stops_nobody(root: Path, cache: Path, opened: list[str]) -> None:
    told: list[str] = []

    class Display(progress.Display):
        def message(self, text: str) -> None:
            told.append(text)

    cache.write_text("no folder")
    with progress.shown_by(Display()):
        assert hashes(root) == expected(root)
        assert hashes(root) == expected(root)
    assert len(opened) == 80
    assert len(told) == 2
    assert told[0].startswith("data set x: the hashes of its files are not kept")
    assert "\n" not in told[0]


def test_what_was_read_before_a_kill_is_not_read_again(
    root: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "PIECE", 1)
    monkeypatch.setattr(contents, "processors", lambda: 1)
    monkeypatch.setattr(contents, "SAVE_SECONDS", -1.0)
    real, done = contents._Known.save, []

    def killed(known: contents._Known, who: str) -> None:
        real(known, who)
        done.append(who)
        if len(done) >= 20:
            # Nothing that runs in a killed process may be needed.
            monkeypatch.setattr(contents._Known, "save", lambda *given: None)
            raise KeyboardInterrupt

    monkeypatch.setattr(contents._Known, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        hashes(root)
    monkeypatch.setattr(contents._Known, "save", real)
    opened.clear()
    assert hashes(root) == expected(root)
    assert len(opened) == 20


def test_files_that_cannot_be_read_are_all_told(root: Path) -> None:
    files = listed(root)
    (root / "a" / "0.bin").unlink()
    (root / "a" / "2.bin").unlink()
    os.mkfifo(root / "a" / "2.bin")
    (root / "b" / "1.bin").write_bytes(b"another length")
    with pytest.raises(UsageError) as caught:
        content_hashes("data set x", root, files)
    text = str(caught.value)
    assert text.startswith("data set x: cannot use 3 of 40 images: ")
    for words in (
        "0.bin cannot be read: No such file", "2.bin is no file any more", "1.bin was changed while"
    ):  # fmt: skip
        assert words in text
    assert "\n" not in text


def test_hashes_of_few_folders_are_kept_the_latest_used_ones(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "MOST_PLACES", 2)
    (cache / "hashes").mkdir(parents=True)
    for name, age in (("old", 9000), ("older", 9900)):
        for path in (cache / "hashes" / f"{name}.bin", cache / "hashes" / f".{name}.bin.1.part"):
            path.write_bytes(b"")
            os.utime(path, (os.stat(path).st_mtime - age,) * 2)
    hashes(root)
    names = sorted(p.name for p in (cache / "hashes").iterdir())
    assert len(names) == 2
    assert "old.bin" in names


def test_pictures_that_are_inverted_are_other_data(tmp_path: Path, draw: Callable[..., np.ndarray]) -> None:
    from PIL import Image

    for number, place in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        (tmp_path / "photos" / place).mkdir(parents=True)
        Image.fromarray(draw(number)).save(tmp_path / "photos" / place / "0.bmp")

    def fingerprint() -> str:
        return load_dataset("image_folder", tmp_path / "photos", {"size": 32, "stream": True}).fingerprint

    before = fingerprint()
    assert fingerprint() == before
    for path in (tmp_path / "photos").rglob("*.bmp"):
        with Image.open(path) as picture:
            inverted = Image.fromarray(255 - np.asarray(picture))
        size = path.stat().st_size
        inverted.save(path)
        assert path.stat().st_size == size
    assert fingerprint() != before

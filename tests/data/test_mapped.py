import errno
import json
import os
import threading
import warnings
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kdzoo.checks import KdzooError, StorageError, UsageError
from kdzoo.data import mapped, progress
from kdzoo.data.base import Dataset, Split
from kdzoo.data.mapped import Content, Source, kept
from kdzoo.data.split import channel_statistics, split_validation
from kdzoo.data.trees import File
from kdzoo.files import open_lock

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 3, 5, 5), dtype=np.uint8)
TRAIN, TEST = np.arange(8) % 2, np.arange(4) % 2
FILES = (File("a", 3, 1), File("b", 4, 2))


class Maker:
    """Counts how often it is asked."""

    def __init__(self, **changed: object) -> None:
        self.count, self.changed = 0, changed

    def __call__(self) -> Content:
        self.count += 1

        def images() -> Generator[np.ndarray, None, None]:
            yield IMAGES[:5]
            yield IMAGES[5:]

        content = Content(("cat", "dog ü"), TRAIN, TEST, (3, 5, 5), images(), lambda: ["made once"])
        return replace(content, **self.changed)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source("x", tmp_path, FILES, dict(size=5))


@pytest.fixture
def folder(source: Source, cache: Path) -> Path:
    """Where the source is kept."""
    return cache / "decoded" / f"x-{source.place[:8]}-{source.key[:8]}"


def right(found: Dataset) -> bool:
    """Say whether a data set is what the maker makes.

    One that is mapped from a file that a test shortens must not be touched any more: the process would end.
    """
    plain = Dataset("x", Split(IMAGES[:8], TRAIN), Split(IMAGES[8:], TEST), ("cat", "dog ü"))
    arrays = [(d.train.images, d.train.labels, d.test.images, d.test.labels) for d in (found, plain)]
    same = all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(*arrays, strict=True))
    return same and found.classes == plain.classes and found.fingerprint == plain.fingerprint


def test_what_was_made_is_mapped_the_second_time(source: Source) -> None:
    make = Maker()
    first, second = kept(source, make), kept(source, make)
    assert make.count == 1
    for found in (first, second):
        assert right(found)
        assert found.statistics == channel_statistics(IMAGES[:8])
        assert found.warnings == ("made once",)
        assert found.train.labels.dtype == np.int64
        # Not a memmap, whose operations give memmaps.
        assert type(found.train.images) is np.ndarray


def test_nothing_is_computed_the_second_time(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kept(source, Maker())
    second = kept(source, Maker())
    monkeypatch.setattr("hashlib.sha256", None)
    with pytest.raises(TypeError):
        Dataset("x", first.train, first.test, ()).fingerprint  # noqa: B018
    monkeypatch.setattr("kdzoo.data.split.channel_statistics", None)
    assert second.fingerprint == first.fingerprint
    assert second.statistics == first.statistics


def test_a_smaller_training_set_has_a_fingerprint_and_statistics_of_its_own(source: Source) -> None:
    whole = kept(source, Maker())
    parted = split_validation(whole, 0.25)
    assert parted.fingerprint != whole.fingerprint
    assert parted.statistics == channel_statistics(parted.train.images) != whole.statistics


def test_images_can_be_written_to_and_the_file_does_not_change(source: Source, folder: Path) -> None:
    found = kept(source, Maker())
    before = (folder / "images.npy").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = torch.from_numpy(found.train.images)
    tensor.zero_()
    assert found.train.images.max() == 0
    assert (folder / "images.npy").read_bytes() == before
    assert kept(source, Maker()).train.images.max() > 0


def test_numpy_reads_the_file(source: Source, folder: Path) -> None:
    kept(source, Maker())
    np.testing.assert_array_equal(np.load(folder / "images.npy"), IMAGES)


@pytest.mark.parametrize(
    "change",
    [
        dict(name="y"), dict(options=dict(size=6)), dict(options={}), dict(root=Path("/")),
        dict(files=FILES[:1]), dict(files=FILES[::-1]), dict(files=(FILES[0], File("c", 4, 2))),
        dict(files=(FILES[0], File("b", 5, 2))), dict(files=(FILES[0], File("b", 4, 3))),
        dict(files=(FILES[0], File("b", 4, 2, 1))),
        dict(files=(File("a\udcff", 3, 1), FILES[1])), dict(files=(File("a\n", 3, 1), FILES[1])),
    ],
    ids=str,
)  # fmt: skip
def test_whatever_is_decoded_otherwise_is_made_anew(source: Source, change: dict) -> None:
    make = Maker()
    kept(source, make)
    kept(replace(source, **change), make)
    assert make.count == 2


def test_another_format_is_made_anew(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Maker()
    kept(source, make)
    monkeypatch.setattr(mapped, "FORMAT", mapped.FORMAT + 1)
    kept(source, make)
    assert make.count == 2


def test_warnings_of_this_call_come_before_those_that_are_kept(source: Source) -> None:
    assert kept(source, Maker(), ["first"]).warnings == ("first", "made once")
    assert kept(source, Maker(), ["other"]).warnings == ("other", "made once")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change_index(**entries: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        index = json.loads((folder / "index.json").read_bytes())
        index.update(entries)
        (folder / "index.json").write_text(json.dumps(index))

    return change


def same_size(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no index": lambda f: (f / "index.json").unlink(),
    "no images": lambda f: (f / "images.npy").unlink(),
    "truncated images": lambda f: truncate(f / "images.npy"),
    "changed images": lambda f: same_size(f / "images.npy"),
    "empty images": lambda f: (f / "images.npy").write_bytes(b""),
    "images are a folder": lambda f: ((f / "images.npy").unlink(), (f / "images.npy").mkdir()),
    "truncated index": lambda f: truncate(f / "index.json"),
    "empty index": lambda f: (f / "index.json").write_bytes(b""),
    "index of zeros": lambda f: (f / "index.json").write_bytes(bytes(500)),
    "index is a list": lambda f: (f / "index.json").write_text("[1]"),
    "index without entries": lambda f: (f / "index.json").write_text("{}"),
    "another key": change_index(key="0" * 64),
    "another shape": change_index(shape=[12, 3, 5, 6]),
    "smaller shape": change_index(shape=[12, 3, 5, 4]),
    "shape is a text": change_index(shape="abcd"),
    "shape is negative": change_index(shape=[-12, -3, 5, 5]),
    "fewer labels": change_index(labels=[[0], [1]]),
    "labels are texts": change_index(labels=[["a"] * 8, ["b"] * 4]),
    "labels are huge": change_index(labels=[[2**70] * 8, [0] * 4]),
    "one split": change_index(labels=[[0] * 12]),
}


@pytest.mark.parametrize("name", [n for n in DAMAGES if n != "images are a folder"])
def test_a_damaged_entry_is_made_again(source: Source, folder: Path, name: str) -> None:
    make = Maker()
    kept(source, make)
    DAMAGES[name](folder)
    assert right(kept(source, make))
    assert make.count == 2
    kept(source, make)
    assert make.count == 2


def test_what_cannot_be_made_again_is_told(source: Source, folder: Path) -> None:
    kept(source, Maker())
    DAMAGES["images are a folder"](folder)
    with pytest.raises(StorageError, match=r"cannot write .*images\.npy"):
        kept(source, Maker())


def test_an_open_map_outlives_a_new_file(source: Source, folder: Path) -> None:
    found = kept(source, Maker())
    (folder / "index.json").unlink()
    other = in_one(IMAGES ^ 255)
    kept(source, Maker(images=other))
    np.testing.assert_array_equal(found.train.images, IMAGES[:8])


def in_one(images: np.ndarray) -> Generator[np.ndarray, None, None]:
    yield images


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_disk_ends_in_one_line_and_leaves_nothing(
    source: Source, folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open" if call == "open" else f"os.{call}", fail)
        with pytest.raises(StorageError) as told:
            kept(source, Maker())
    [line] = str(told.value).splitlines()
    assert isinstance(told.value, KdzooError)
    assert str(folder) in line
    assert os.strerror(code) in line
    assert "KDZOO_DATA" in line
    assert [p.name for p in folder.iterdir()] == [".lock"]
    assert right(kept(source, Maker()))


@pytest.mark.parametrize("kind", ["file", "denied"])
def test_a_cache_that_cannot_be_made_ends_in_one_line(
    source: Source, cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "file":
        cache.write_text("a file")
    else:
        monkeypatch.setattr(
            Path, "mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "denied"))
        )
    with pytest.raises(StorageError, match="Set KDZOO_DATA to a folder elsewhere") as told:
        kept(source, Maker())
    assert len(str(told.value).splitlines()) == 1
    assert str(cache) in str(told.value)


def test_a_whole_entry_is_read_from_a_cache_that_cannot_be_written(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(source, Maker())
    monkeypatch.setattr(Path, "mkdir", None)
    monkeypatch.setattr(Path, "touch", None)
    assert len(kept(source, Maker()).train) == 8


@pytest.mark.parametrize("error", [UsageError("damaged"), KeyboardInterrupt(), ZeroDivisionError()])
def test_what_fails_while_it_is_decoded_leaves_nothing(
    source: Source, folder: Path, error: BaseException
) -> None:
    closed = []

    def images() -> Generator[np.ndarray, None, None]:
        try:
            yield IMAGES[:5]
            raise error
        finally:
            closed.append(True)

    with pytest.raises(type(error)):
        kept(source, Maker(images=images()))
    assert closed == [True]
    assert [p.name for p in folder.iterdir()] == [".lock"]


def test_decoding_ends_when_writing_fails(source: Source) -> None:
    closed = []

    def images() -> Generator[np.ndarray, None, None]:
        try:
            yield Broken()
        finally:
            closed.append(True)

    class Broken:
        def __array__(self, *_: object, **__: object) -> np.ndarray:
            raise ZeroDivisionError

    # The error is held by pytest, and with it whatever its traceback refers to.
    with pytest.raises(ZeroDivisionError):
        kept(source, Maker(images=images()))
    assert closed == [True]


def test_other_counts_than_promised_are_a_fault(source: Source) -> None:
    with pytest.raises(RuntimeError, match="11 images for 12 labels"):
        kept(source, Maker(images=in_one(IMAGES[:11])))


def test_leftovers_of_dead_processes_are_taken_away(source: Source, folder: Path, cache: Path) -> None:
    other = cache / "decoded" / "y-00000000-00000000"
    for place in (folder, other):
        place.mkdir(parents=True)
        (place / ".images.npy.999.part").write_bytes(bytes(99))
    (other / "images.npy").write_text("another data set's")
    (cache / "decoded" / "a file of the user").write_text("")
    kept(source, Maker())
    assert not list(cache.rglob("*.part"))
    assert (other / "images.npy").exists()


def test_what_a_living_process_writes_is_left_alone(source: Source, folder: Path, cache: Path) -> None:
    other = cache / "decoded" / "y-00000000-00000000"
    with open_lock(other).acquire():
        (other / ".images.npy.999.part").write_bytes(bytes(99))
        kept(source, Maker())
        assert (other / ".images.npy.999.part").exists()


def test_what_changed_files_gave_before_is_taken_away(source: Source, folder: Path, cache: Path) -> None:
    kept(source, Maker())
    kept(replace(source, options=dict(size=6)), Maker())
    kept(replace(source, name="y"), Maker())
    changed = replace(source, files=(FILES[0], File("b", 4, 99)))
    kept(changed, Maker())
    assert len(list((cache / "decoded").iterdir())) == 3
    assert not folder.exists()


def test_a_second_one_waits_and_then_reads_what_the_first_made(source: Source) -> None:
    said, begun, go_on = [], threading.Event(), threading.Event()

    class Display(progress.Display):
        def message(self, text: str) -> None:
            said.append(text)
            go_on.set()

    def images() -> Generator[np.ndarray, None, None]:
        begun.set()
        assert go_on.wait(30)
        yield IMAGES

    first = threading.Thread(target=kept, args=(source, Maker(images=images())))
    first.start()
    assert begun.wait(30)
    make = Maker()
    with progress.shown_by(Display()):
        found = kept(source, make)
    first.join()
    assert make.count == 0
    assert len(found.train) == 8
    assert said == ["data set x: another process decodes it; waiting"]

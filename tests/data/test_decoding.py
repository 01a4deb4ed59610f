import io
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdzoo.checks import UsageError
from kdzoo.data import decoding, progress, threads
from kdzoo.data.decoding import decoded
from kdzoo.data.pictures import Unfit, pixels
from kdzoo.data.trees import File, Folder, files_below

Write = Callable[..., Path]


def rgb(picture: Image.Image) -> np.ndarray:
    return pixels(picture, "rgb")


@pytest.fixture
def tree(tmp_path: Path, write_folders: Write) -> Folder:
    return Folder("data set x", write_folders(tmp_path / "root", (4, 4), train={"a": 30, "b": 25}))


def listed(tree: Folder) -> list[File]:
    return list(files_below(tree, "train"))


@pytest.mark.parametrize("processors", [1, 3])
@pytest.mark.parametrize("piece", [1, 16, 100])
def test_images_come_in_the_order_of_the_files(
    tree: Folder, monkeypatch: pytest.MonkeyPatch, processors: int, piece: int
) -> None:
    monkeypatch.setattr(decoding, "processors", lambda: processors)
    monkeypatch.setattr(threads, "PIECE", piece)
    files = listed(tree)
    expected = [np.asarray(Image.open(tree.told(file.name))).transpose(2, 0, 1) for file in files]
    np.testing.assert_array_equal(np.concatenate(list(decoded("x", tree, files, rgb))), np.stack(expected))


def test_several_threads_decode_at_once(tree: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "processors", lambda: 3)
    monkeypatch.setattr(threads, "PIECE", 1)
    meeting = threading.Barrier(3, timeout=30)

    def meet(picture: Image.Image) -> np.ndarray:
        meeting.wait()
        return rgb(picture)

    assert len(list(decoded("x", tree, listed(tree)[:6], meet))) == 6


def test_threads_go_not_far_ahead_of_who_takes_the_images(
    tree: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "processors", lambda: 2)
    monkeypatch.setattr(threads, "PIECE", 1)
    done = []

    def count(picture: Image.Image) -> np.ndarray:
        done.append(1)
        return rgb(picture)

    pieces = decoded("x", tree, listed(tree), count)
    next(pieces)
    for _ in range(100):
        time.sleep(0.001)
    assert len(done) <= 6
    pieces.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_all_that_cannot_be_read_is_told_in_one_line(tree: Folder) -> None:
    files = listed(tree)
    folder = Path(tree.told("train"))
    (folder / "a/1.png").write_bytes(b"")
    (folder / "a/2.png").write_bytes(b"hello")
    whole = (folder / "b/3.png").read_bytes()
    (folder / "b/3.png").write_bytes(whole[:-30])
    (folder / "b/5.png").unlink()
    (folder / "b/7.png").unlink()
    (folder / "b/7.png").mkdir()
    taken = []
    with pytest.raises(UsageError) as told:
        taken.extend(decoded("data set x", tree, files, rgb))
    [line] = str(told.value).splitlines()
    assert line.startswith("data set x: cannot use 5 of 55 images: ")
    assert f"{folder}/a/1.png is empty, {folder}/a/2.png is no picture that can be read, " in line
    assert f"{folder}/b/3.png cannot be decoded: image file is truncated" in line
    assert line.endswith("and 2 more. Replace them or take them away.")


def test_one_that_cannot_be_used_is_told_with_its_reason(tree: Folder) -> None:
    def refuse(picture: Image.Image) -> np.ndarray:
        raise Unfit("must be something else")

    files = listed(tree)[:1]
    with pytest.raises(UsageError) as told:
        list(decoded("data set x", tree, files, refuse))
    assert str(told.value) == (
        f"data set x: cannot use an image: {tree.told(files[0].name)} must be something else. "
        f"Replace it or take it away."
    )


def test_denied_permission_is_told(tree: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> io.BytesIO:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Folder, "open", denied)
    with pytest.raises(UsageError, match=r"55 of 55 images: .*: Permission denied, "):
        list(decoded("x", tree, listed(tree), rgb))


def test_progress_counts_images(tree: Folder) -> None:
    seen = []

    class Display(progress.Display):
        def begin(self, title: str, total: int) -> None:
            seen.append((title, total))

        def advance(self, count: int) -> None:
            seen.append(count)

    with progress.shown_by(Display()):
        list(decoded("data set x", tree, listed(tree), rgb))
    assert seen == [("decoding data set x", 55), 16, 16, 16, 7]

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from kdzoo.checks import UsageError
from kdzoo.data.trees import Folder, files_below, read_lines


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a few files; beside it is what must not be reached."""
    for name in ("b.txt", "a.JPG", "cats/one.png", "cats/deep/er/two.png", ".hidden/x.png", ".DS_Store",
                 "Thumbs.db", "__MACOSX/x.png", "cats/._one.png", "@eaDir/x.png"):  # fmt: skip
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.png").write_text("secret")
    return tmp_path / "root"


def refused(root: Path, below: str = "") -> str:
    with pytest.raises(UsageError) as told:
        list(files_below(Folder("data set x", root), below))
    [line] = str(told.value).splitlines()
    assert line.startswith("data set x: ")
    return line


def test_files_are_listed_in_alphabetical_order_without_hidden_ones_and_litter(root: Path) -> None:
    tree = Folder("x", root)
    folders, files = tree.level()
    assert folders == ["cats"]
    assert [(f.name, f.size, f.suffix) for f in files] == [("a.JPG", 5, ".jpg"), ("b.txt", 5, ".txt")]
    below = [f.name for f in files_below(tree, "")]
    assert below == ["a.JPG", "b.txt", "cats/one.png", "cats/deep/er/two.png"]
    assert tree.level("nowhere") == ([], [])


def test_a_change_of_a_file_changes_its_stamp(root: Path) -> None:
    tree = Folder("x", root)
    before = tree.file("b.txt")
    os.utime(root / "b.txt", ns=(1, 123_456_789))
    after = tree.file("b.txt")
    assert after is not None
    assert after.stamp == 123_456_789 != before.stamp
    assert after == tree.level().files[1]


def test_a_single_file_is_found_and_read(root: Path) -> None:
    tree = Folder("x", root)
    file = tree.file("cats/deep/er/two.png")
    assert file is not None
    with tree.open(file) as stream:
        assert stream.read() == b"cats/deep/er/two.png"
    assert tree.file("cats") is None
    assert tree.file("cats/none") is None
    assert tree.file("a.JPG/none") is None
    assert tree.told("cats/x") == str(root / "cats" / "x")


Link = Callable[[Path], object]
LINKS: dict[str, tuple[Link, str]] = {
    "file": (lambda r: (r / "cats/out.png").symlink_to(r.parent / "outside/secret.png"), "leads out of"),
    "folder": (lambda r: (r / "cats/out").symlink_to(r.parent / "outside"), "leads out of"),
    "absolute": (lambda r: (r / "cats/out").symlink_to("/"), "leads out of"),
    "relative": (lambda r: (r / "cats/out").symlink_to("../../outside"), "leads out of"),
    "chain": (
        lambda r: ((r / "cats/a").symlink_to("b.png"), (r / "cats/b.png").symlink_to(r.parent / "outside")),
        "leads out of",
    ),
    "neighbour with the same beginning": (
        lambda r: ((r.parent / "root2").mkdir(), (r / "cats/out").symlink_to(r.parent / "root2")),
        "leads out of",
    ),
    "broken": (lambda r: (r / "cats/gone.png").symlink_to("nothing.png"), "leads to nothing"),
    "itself": (lambda r: (r / "cats/me.png").symlink_to("me.png"), "leads to nothing"),
    "circle": (lambda r: (r / "cats/deep/up").symlink_to(".."), "leads to a folder that it stands in"),
    "root": (lambda r: (r / "cats/up").symlink_to(r), "leads to a folder that it stands in"),
}


@pytest.mark.parametrize("name", LINKS)
def test_links_that_lead_out_or_nowhere_or_round_are_refused_by_name(root: Path, name: str) -> None:
    make, told = LINKS[name]
    make(root)
    line = refused(root)
    assert told in line
    assert str(root / "cats") in line


def test_a_linked_folder_is_refused_when_it_is_asked_for(root: Path) -> None:
    (root / "train").symlink_to(root.parent / "outside")
    assert "leads out of" in refused(root, "train")
    with pytest.raises(UsageError, match=r"train/secret\.png is a link that leads out of"):
        Folder("x", root).file("train/secret.png")
    (root / "gone").symlink_to("nothing")
    with pytest.raises(UsageError, match="leads to nothing"):
        Folder("x", root).file("gone")


def test_links_inside_the_root_are_followed(root: Path) -> None:
    (root / "cats/again.png").symlink_to("one.png")
    (root / "dogs").symlink_to("cats/deep")
    names = [f.name for f in files_below(Folder("x", root), "")]
    assert "cats/again.png" in names
    assert "dogs/er/two.png" in names


def test_the_root_may_be_a_link_itself(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    assert len(list(files_below(Folder("x", link), ""))) == 4


def test_what_is_no_file_is_refused_and_not_waited_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "cats/pipe.png")
    assert "pipe.png must be a file or a folder" in refused(root)
    (root / "cats/pipe.png").unlink()
    monkeypatch.chdir(root / "cats")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.png")
        assert "socket.png must be a file or a folder" in refused(root)


def test_denied_permission_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def denied(path: Path) -> object:
        if str(path).endswith("cats"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    assert refused(root) == f"data set x: {root / 'cats'} must be readable, got 'Permission denied'."


def test_names_of_any_bytes_are_listed_and_told_in_one_line(root: Path) -> None:
    for name in (b"new\nline.png", b"\xff\xfe.png"):
        Path(os.fsdecode(os.fsencode(root) + b"/cats/" + name)).write_text("x")
    tree = Folder("x", root)
    files = tree.level("cats").files
    assert len(files) == 3
    assert {tree.told(f.name) for f in files} == {
        str(root / "cats/one.png"), f"{root}/cats/new\\nline.png", f"{root}/cats/\\udcff\\udcfe.png"
    }  # fmt: skip
    for file in files:
        tree.open(file).close()
    (root / "cats/out\nside").symlink_to("/")
    assert "out\\nside is a link" in refused(root)


def lines(root: Path, content: bytes, largest: int = 100) -> list[str]:
    (root / "lines.txt").write_bytes(content)
    tree = Folder("x", root)
    file = tree.file("lines.txt")
    assert file is not None
    return read_lines("x", tree, file, largest=largest)


def test_lines_of_a_text_are_read(root: Path) -> None:
    assert lines(root, "\ufeffa\tb\r\n\n  \nü".encode()) == ["a\tb", "ü"]
    with pytest.raises(UsageError, match=r"lines\.txt must be a text in UTF-8"):
        lines(root, b"\xff")
    with pytest.raises(UsageError, match=r"lines\.txt must be of 100 bytes at most, got '101 bytes'"):
        lines(root, b"x" * 101)


def test_a_text_that_may_not_be_read_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Folder, "open", denied)
    with pytest.raises(UsageError, match=r"lines\.txt must be readable, got 'Permission denied'"):
        lines(root, b"x")

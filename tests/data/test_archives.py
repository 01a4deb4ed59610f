import contextlib
import gzip
import io
import stat
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kdzoo.checks import UsageError
from kdzoo.data import archives
from kdzoo.data.archives import Zip, tar_members
from kdzoo.data.trees import files_below

LARGEST = 1000


def write_zip(path: Path, members: dict[str | zipfile.ZipInfo, bytes], **options: int) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def opened(path: Path) -> Zip:
    return Zip("data set x", path, largest=LARGEST, base="base")


def refused(act: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as told:
        act()
    [line] = str(told.value).splitlines()
    assert line.startswith("data set x: ")
    return line


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "archive.zip"


@pytest.mark.parametrize("base", ["", "base/"])
@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_is_a_tree(path: Path, base: str, kind: int) -> None:
    names = ["b.txt", "cats/2.png", "cats/1.png", "cats/deep/er/3.png", "cats/.hidden", "__MACOSX/x"]
    tree = opened(
        write_zip(path, {base + n: n.encode() for n in names} | {f"{base}empty/": b""}, compression=kind)
    )
    folders, files = tree.level()
    assert (folders, [f.name for f in files]) == (["cats", "empty"], ["b.txt"])
    found = list(files_below(tree, "cats"))
    assert [f.name for f in found] == ["cats/1.png", "cats/2.png", "cats/deep/er/3.png"]
    assert tree.open(found[2]).read() == b"cats/deep/er/3.png"
    assert tree.file("cats/1.png") == found[0]
    assert tree.file("cats") is None
    assert tree.level("dogs") == ([], [])
    assert tree.told("cats/1.png") == f"{base}cats/1.png in {path}"


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


NAMES = {
    "/etc/passwd": "is absolute",
    "../outside": "leads out of the archive",
    "base/../../outside": "leads out of the archive",
    "..": "leads out of the archive",
    "base\\..\\outside": "has a backslash",
    "C:/windows": "is absolute",
    "c:evil": "is absolute",
}


@pytest.mark.parametrize("name", NAMES)
def test_members_with_unsafe_names_are_refused(path: Path, name: str) -> None:
    line = refused(lambda: opened(write_zip(path, {"base/a": b"", name: b"x"})))
    assert f"{path} is not safe to read: {name} {NAMES[name]}" in line
    members = tar(path.with_suffix(".tar.gz"), {name: b"x"})
    assert f"{name} {NAMES[name]}" in refused(lambda: list(members))


def test_zero_bytes_in_names_are_refused(path: Path) -> None:
    write_zip(path, {"base/a.png?.exe": b"x"})
    path.write_bytes(path.read_bytes().replace(b"a.png?", b"a.png\0"))
    assert "has a zero byte" in refused(lambda: opened(path))


@pytest.mark.parametrize("name", ["base//a", "//", "base/./a", "./a", "base//", "."])
def test_names_that_are_no_plain_paths_are_refused(path: Path, name: str) -> None:
    """An empty part would be a folder that stands in itself."""
    line = refused(lambda: opened(write_zip(path, {name: b""})))
    assert "is no plain path" in line or "is absolute" in line


def test_links_in_zips_are_refused(path: Path) -> None:
    assert "base/link is a link" in refused(lambda: opened(write_zip(path, {link("base/link"): b"/etc"})))


def test_doubled_members_are_refused(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("base/a.png", b"1")
            archive.writestr("base/a.png", b"2")
    assert "base/a.png is there twice" in refused(lambda: opened(path))


def test_all_unsafe_members_are_counted(path: Path) -> None:
    line = refused(lambda: opened(write_zip(path, {f"/{n}": b"" for n in range(5)})))
    assert "/0 is absolute, /1 is absolute, /2 is absolute and 2 more" in line


def test_members_that_claim_absurd_sizes_are_refused(path: Path) -> None:
    bomb = write_zip(path, {"base/a": b"", "base/bomb": bytes(LARGEST + 1)}, compression=zipfile.ZIP_DEFLATED)
    assert "base/bomb claims 1,001 bytes" in refused(lambda: opened(bomb))


def test_members_that_are_longer_than_they_claim_are_cut_off(path: Path) -> None:
    write_zip(path, {"base/bomb": bytes(LARGEST * 1000)}, compression=zipfile.ZIP_DEFLATED)
    content = path.read_bytes().replace(struct.pack("<I", LARGEST * 1000), struct.pack("<I", 10))
    path.write_bytes(content)
    tree = opened(path)
    [file] = tree.level().files
    assert file.size == 10
    with pytest.raises(ValueError, match="its part of the archive is damaged"):
        tree.open(file)


def test_members_that_are_shorter_than_they_claim_are_told(path: Path) -> None:
    content = b"content of a length that no other field has"
    write_zip(path, {"base/short": content})
    sizes = struct.pack("<II", len(content), len(content))
    path.write_bytes(path.read_bytes().replace(sizes, sizes[:4] + struct.pack("<I", 99)))
    tree = opened(path)
    with pytest.raises(ValueError, match="has 43 bytes and not 99, as the archive says"):
        tree.open(tree.level().files[0])


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packing_that_cannot_be_limited_is_refused(path: Path, kind: int) -> None:
    line = refused(lambda: opened(write_zip(path, {"base/a": b"x"}, compression=kind)))
    assert "base/a is packed in an unusual way" in line


def test_encrypted_members_are_refused(path: Path) -> None:
    write_zip(path, {"base/a": b"x"})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)
    assert "base/a is encrypted" in refused(lambda: opened(path))


def test_too_many_members_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ZIP_MEMBERS", 3)
    opened(write_zip(path, dict.fromkeys("abc", b"")))
    write_zip(path, dict.fromkeys("abcd", b""))
    assert "has 4 members; 3 are the most" in refused(lambda: opened(path))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\5\6" + bytes(10)])
def test_what_is_no_zip_is_told(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert f"{path} is no whole archive" in refused(lambda: opened(path))


def test_a_cut_off_zip_is_told(path: Path) -> None:
    whole = write_zip(path, {f"base/{n}": b"content" for n in range(20)}).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "is no whole archive" in refused(lambda: opened(path))


def test_a_damaged_member_is_told_when_it_is_read(path: Path) -> None:
    write_zip(path, {"base/a": b"some content"})
    path.write_bytes(path.read_bytes().replace(b"some", b"same"))
    tree = opened(path)
    with pytest.raises(ValueError, match="Bad CRC-32"):
        tree.open(tree.level().files[0])


def test_denied_permission_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(zipfile, "ZipFile", denied)
    monkeypatch.setattr(gzip, "open", denied)
    expected = f"data set x: {path} must be readable, got 'Permission denied'."
    assert refused(lambda: opened(path)) == expected
    assert refused(lambda: list(tar_members("data set x", path, largest=LARGEST))) == expected


# Tars.


def tar(path: Path, members: dict[str | tarfile.TarInfo, bytes]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = info.size or len(content)
            archive.addfile(info, io.BytesIO(content))
    return read_tar(path)


def read_tar(path: Path) -> Iterator[tuple[str, bytes]]:
    for name, stream, size in tar_members("data set x", path, largest=LARGEST):
        yield name, stream.read(size)


def kind(name: str, letter: bytes, **more: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = letter
    for field, value in more.items():
        setattr(info, field, value)
    return info


def test_a_tar_is_passed_through(path: Path) -> None:
    folder, long = kind("./base", tarfile.DIRTYPE), "base/" + "c" * 300
    members = {folder: b"", "./base/a": b"1" * 700, "base/b": b"", long: b"3"}
    assert list(tar(path, members)) == [
        ("base/a", b"1" * 700), ("base/b", b""), (long, b"3")
    ]  # fmt: skip


def test_members_of_a_tar_need_not_be_read(path: Path) -> None:
    list(tar(path, {"a": b"1" * 1000, "b": b"2"}))
    assert [name for name, *_ in tar_members("data set x", path, largest=LARGEST)] == ["a", "b"]


@pytest.mark.parametrize(
    "member",
    [
        kind("a", tarfile.SYMTYPE, linkname="/etc/passwd"), kind("a", tarfile.LNKTYPE, linkname="b"),
        kind("a", tarfile.CHRTYPE), kind("a", tarfile.BLKTYPE), kind("a", tarfile.FIFOTYPE),
    ],
    ids=["symbolic link", "hard link", "character device", "block device", "pipe"],
)  # fmt: skip
def test_links_and_devices_in_tars_are_refused(path: Path, member: tarfile.TarInfo) -> None:
    assert "a is a link or a device" in refused(lambda: list(tar(path, {member: b""})))


def test_doubled_large_and_too_many_members_of_tars_are_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = {"./a": b"1", "a": b"2"}
    assert "a is there twice" in refused(lambda: list(tar(path, twice)))
    assert "b claims 1,001 bytes" in refused(lambda: list(tar(path, {"b": bytes(LARGEST + 1)})))
    monkeypatch.setattr(archives, "TAR_MEMBERS", 3)
    assert len(list(tar(path, dict.fromkeys("abc", b"")))) == 3
    assert "d is more than the 3 members" in refused(lambda: list(tar(path, dict.fromkeys("abcd", b""))))


def header(name: str, letter: bytes, size: int) -> bytes:
    info = kind(name, letter)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("letter", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_headers_that_claim_gigabytes_take_no_memory(path: Path, letter: bytes) -> None:
    path.write_bytes(gzip.compress(header("a", letter, 1 << 33) + bytes(1 << 22)))
    line = refused(lambda: list(read_tar(path)))
    assert "is no whole archive (a header that claims too much)" in line


def test_sparse_members_are_refused(path: Path) -> None:
    info = kind("a", tarfile.GNUTYPE_SPARSE)
    buffer = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    buffer[483:495] = b"00000001000\0"
    checksum = 256 + sum(buffer[:148]) + sum(buffer[156:512])
    buffer[148:156] = b"%06o\0 " % checksum
    path.write_bytes(gzip.compress(bytes(buffer) + bytes(1024)))
    assert "claims" in refused(lambda: list(read_tar(path)))


@pytest.mark.parametrize("letter", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_negative_sizes_lead_round_no_circle(path: Path, letter: bytes) -> None:
    first = header("first", tarfile.REGTYPE, 0)
    path.write_bytes(gzip.compress(first + header("a", letter, -1024) + bytes(2048)))
    # Some versions of Python take such a header for the end of the archive.
    names: list[str] = []
    with contextlib.suppress(UsageError):
        names = [name for name, *_ in read_tar(path)]
    assert names in ([], ["first"])


def test_a_tar_is_read_forward_only() -> None:
    """Older versions of tarfile go round in circles."""
    stream = archives._Forward(io.BytesIO(bytes(1000)))
    stream.seek(500)
    stream.seek(499)
    with pytest.raises(tarfile.ReadError, match="leads back"):
        stream.seek(400)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b"",
        lambda b: b"hello",
        lambda b: b[: len(b) // 2],
        lambda b: b[:-8] + bytes(4) + b[-4:],
        lambda b: gzip.compress(gzip.decompress(b)[:700]),
        lambda b: gzip.compress(b"hello" * 200),
        lambda b: b[:40] + bytes(20) + b[60:],
        lambda b: gzip.compress(gzip.decompress(b).replace(b"0001604", b"000160?", 1)),
        lambda b: gzip.compress(gzip.decompress(b).replace(b"0001604", b"000160?").replace(b"?", b"4", 1)),
        lambda b: gzip.compress(gzip.decompress(b) + bytes(1 << 20)),
    ],
    ids=[
        "empty",
        "text",
        "cut off",
        "checksum",
        "tar cut off",
        "no tar inside",
        "damaged",
        "first header",
        "headers",
        "behind the end",
    ],
)
def test_damaged_tars_are_told(path: Path, spoil: Callable[[bytes], bytes]) -> None:
    list(tar(path, {name: name.encode() * 900 for name in "abcdefg"}))
    path.write_bytes(spoil(path.read_bytes()))
    members = tar_members("data set x", path, largest=LARGEST)
    assert f"{path} is no whole archive" in refused(lambda: [name for name, *_ in members])

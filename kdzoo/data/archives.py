"""Archives that stay packed: every name in them is checked, every size limited, nothing goes to the disk."""

from __future__ import annotations

import gzip
import io
import re
import stat
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from kdzoo.checks import UsageError, usage
from kdzoo.data.places import few, shown
from kdzoo.data.trees import LITTER, File, Level

# Full Tiny ImageNet has 120,609 members, CIFAR's archives about ten.
ZIP_MEMBERS, TAR_MEMBERS = 1_000_000, 100
HEADER = 1 << 20  # bytes of the longest header in a tar
DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError, KeyError,
    IndexError, NotImplementedError, RuntimeError,
)  # fmt: skip


def refused(who: str, path: Path, fault: str) -> UsageError:
    """Say what is wrong with an archive, and what to do."""
    return UsageError(f"{who}: {shown(path)} {fault}. Get the archive again from where it is published.")


def damaged(who: str, path: Path, error: Exception) -> UsageError:
    """Say that an archive cannot be read, whatever its reader raised."""
    if isinstance(error, OSError) and error.strerror:
        return usage(who, shown(path), "readable", error.strerror)
    text = str(error) or type(error).__name__
    return refused(who, path, f"is no whole archive ({shown(' '.join(text.split())[:100])})")


def check_name(name: str) -> str | None:
    """Say what is wrong with a member's name; None for a plain one below the archive's root."""
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "is absolute"
    if "\\" in name:
        return "has a backslash"
    if ".." in name.split("/"):
        return "leads out of the archive"
    return None


class Zip:
    """A zip archive as a `Tree`.

    Args:
        who: whose data they are, for messages.
        path: of the archive.
        largest: bytes that a member may have.
        base: a folder of the archive that is taken for the root, if it has one of that name.

    Raises:
        UsageError: it is damaged, or has a member of an unsafe or doubled name, a link, an encrypted one, or
            one of an absurd size or an unusual compression.
    """

    def __init__(self, who: str, path: Path, *, largest: int, base: str) -> None:
        self._who, self._path, self._largest, self._lock = who, path, largest, threading.Lock()
        try:
            self._zip = zipfile.ZipFile(path)
        except DAMAGE as error:
            raise damaged(who, path, error) from error
        members = self._zip.infolist()
        if len(members) > ZIP_MEMBERS:
            raise refused(who, path, f"has {len(members):,} members; {ZIP_MEMBERS:,} are the most")
        faults = list(self._faults(members))
        if faults:
            raise refused(who, path, f"is not safe to read: {few(faults)}")
        self._prefix = f"{base}/" if any(m.filename.startswith(f"{base}/") for m in members) else ""
        self._levels: dict[str, tuple[set[str], list[File]]] = {"": (set(), [])}
        for member in members:
            self._place(member)

    def level(self, below: str = "") -> Level:
        """List one folder."""
        folders, files = self._levels.get(below, ((), ()))
        return Level(sorted(folders), sorted(files))

    def file(self, name: str) -> File | None:
        """Find a file by its name from the root; None if there is none, or if it is a folder."""
        return next((file for file in self.level(name.rpartition("/")[0]).files if file.name == name), None)

    def open(self, file: File) -> BinaryIO:
        """Unpack a file into memory.

        Raises:
            ValueError: it is damaged, or longer than the archive says.
        """
        try:
            # zipfile counts its open members, and threads must not miscount.
            with self._lock, self._zip.open(self._prefix + file.name) as member:
                content = member.read(self._largest + 1)
        except DAMAGE as error:
            raise ValueError(f"its part of the archive is damaged: {error}") from error
        if len(content) != file.size:
            raise ValueError(f"it has {len(content)} bytes and not {file.size}, as the archive says")
        return io.BytesIO(content)

    def told(self, name: str) -> str:
        """Write a file's place for people."""
        return f"{shown(self._prefix + name)} in {shown(self._path)}"

    def _faults(self, members: list[zipfile.ZipInfo]) -> Iterator[str]:
        seen = set()
        for member in members:
            # As it stands in the file; zipfile cuts a name at a zero byte.
            name, mode = member.orig_filename, member.external_attr >> 16
            fault = check_name(name) or ("has a zero byte" if "\0" in name else None)
            if fault is None and {"", "."} & set(name.removesuffix("/").split("/")):
                fault = "is no plain path"
            if fault is None and name in seen:
                fault = "is there twice"
            elif fault is None and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                fault = "is a link or a device"
            elif fault is None and member.flag_bits & 1:
                fault = "is encrypted"
            elif fault is None and member.file_size > self._largest:
                fault = f"claims {member.file_size:,} bytes"
            # Others unpack as much as they like at a time.
            elif fault is None and member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                fault = "is packed in an unusual way"
            seen.add(name)
            if fault:
                yield f"{shown(name)} {fault}"

    def _place(self, member: zipfile.ZipInfo) -> None:
        name = member.filename.removesuffix("/")
        parts = name[len(self._prefix) :].split("/")
        if not name.startswith(self._prefix) or any(p.startswith(".") or p in LITTER for p in parts):
            return
        for depth, part in enumerate(parts if member.is_dir() else parts[:-1]):
            self._levels["/".join(parts[:depth])][0].add(part)
            self._levels.setdefault("/".join(parts[: depth + 1]), (set(), []))
        if not member.is_dir():
            self._levels["/".join(parts[:-1])][1].append(File("/".join(parts), member.file_size, member.CRC))


class _Forward(io.RawIOBase):
    """An unpacked stream of which headers can ask little at once, and which goes only forward.

    A tar's header may claim a name of gigabytes, or a negative size, and so send its reader back for ever.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.most = file, HEADER

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= self.most:
            raise tarfile.ReadError("a header that claims too much")
        return self._file.read(count)

    def seek(self, place: int, whence: int = 0) -> int:
        if whence != 0 or place < self._file.tell() - 1:
            raise tarfile.ReadError("a header that leads back")
        return self._file.seek(place)

    def tell(self) -> int:
        return self._file.tell()


def tar_members(who: str, path: Path, *, largest: int) -> Iterator[tuple[str, BinaryIO, int]]:
    """Pass through the files of a .tar.gz once; none is unpacked to the disk.

    Args:
        who: whose data they are, for messages.
        path: of the archive.
        largest: bytes that a member may have.

    Yields:
        Each file's name without "./", a stream of its content and how many bytes it has. The stream lasts one
        turn; damage may come to light in it, or when all files were passed.

    Raises:
        UsageError: the archive is damaged, or has a member of an unsafe or doubled name, a link, a device, or
            one of an absurd size, or too many.
    """
    seen: set[str] = set()
    try:
        with gzip.open(path) as unpacked:
            forward = _Forward(unpacked)  # type: ignore[arg-type]
            with tarfile.open(fileobj=forward, mode="r:", errorlevel=2) as archive:
                for member in archive:
                    if fault := _fault(member, seen, largest):
                        raise refused(who, path, f"is not safe to read: {shown(member.name)} {fault}")
                    if member.isreg():
                        # Not by tarfile's own reader, which holds twice what it is asked for.
                        forward.seek(member.offset_data)
                        forward.most = max(HEADER, member.size)
                        yield str(PurePosixPath(member.name)), forward, member.size  # type: ignore[misc]
                        forward.most = HEADER
            # To the end, where the checksum stands. A tar has zeros there, for which tarfile takes a damaged
            # header as well.
            rest = unpacked.read(HEADER)
            if len(rest) == HEADER or rest.strip(b"\0"):
                raise tarfile.ReadError("it goes on behind its end")
    except UsageError:
        raise
    except DAMAGE as error:
        raise damaged(who, path, error) from error


def _fault(member: tarfile.TarInfo, seen: set[str], largest: int) -> str | None:
    fault, name = check_name(member.name), str(PurePosixPath(member.name))
    if fault is None and name in seen:
        fault = "is there twice"
    elif fault is None and not (member.isreg() or member.isdir()):
        fault = "is a link or a device"
    elif fault is None and (not 0 <= member.size <= largest or member.issparse()):
        fault = f"claims {member.size:,} bytes"
    elif fault is None and len(seen) == TAR_MEMBERS:
        fault = f"is more than the {TAR_MEMBERS} members that there may be"
    seen.add(name)
    return fault

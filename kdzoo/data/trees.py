"""Folders of files, listed without leaving them: what links lead out, and what is no file, is refused by
name."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from kdzoo.checks import UsageError, usage
from kdzoo.data.places import shown

# What systems leave beside the user's files, apart from hidden ones.
LITTER = frozenset({"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"})


class File(NamedTuple):
    """A file below a root, and by what a change of it is seen.

    Attributes:
        name: from the root, with slashes.
        size: in bytes.
        stamp: nanoseconds of its last change, which programs may set back; in an archive, its checksum.
        changed: nanoseconds of the last change of content, name or rights, which nobody can set; in an
            archive 0.
        inode: its number on the disk; in an archive 0.
    """

    name: str
    size: int
    stamp: int
    changed: int = 0
    inode: int = 0

    @classmethod
    def found(cls, name: str, state: os.stat_result) -> File:
        """Take what the system says of a file."""
        return cls(name, state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)

    @property
    def mark(self) -> bytes:
        """Hash of all of it, 16 bytes: the same mark, the same content."""
        state = f"\0{self.size}\0{self.stamp}\0{self.changed}\0{self.inode}"
        return hashlib.blake2b(os.fsencode(self.name) + state.encode(), digest_size=16).digest()

    @property
    def suffix(self) -> str:
        """The name's last suffix in lower case, as ".jpeg"."""
        return os.path.splitext(self.name)[1].lower()


class Level(NamedTuple):
    """What stands in one folder, in alphabetical order: names of folders, and files."""

    folders: list[str]
    files: list[File]


class Tree(Protocol):
    """A root with folders and files: a folder on the disk, or an archive that stays packed."""

    def level(self, below: str = "") -> Level:
        """List one folder, "" for the root; nothing where there is no such folder."""

    def file(self, name: str) -> File | None:
        """Find a file by its name from the root; None if there is none, or if it is a folder."""

    def open(self, file: File) -> BinaryIO:
        """Open a file for reading."""

    def told(self, name: str) -> str:
        """Write a file's place for people."""


def join(below: str, name: str) -> str:
    """Put a name behind a folder's."""
    return f"{below}/{name}" if below else name


def files_below(tree: Tree, below: str) -> Iterator[File]:
    """List the files of a folder and of all folders in it, each folder's own before those further down.

    Args:
        tree: where.
        below: the folder's name from the root.
    """
    waiting = [below]
    while waiting:
        folder = waiting.pop()
        level = tree.level(folder)
        yield from level.files
        waiting.extend(join(folder, name) for name in reversed(level.folders))


def read_lines(who: str, tree: Tree, file: File, *, largest: int = 16_000_000) -> list[str]:
    """Read a text, UTF-8.

    Args:
        who: whose data they are, for messages.
        tree: where the file is.
        file: which one.
        largest: bytes that it may have.

    Returns:
        Its lines without their ends; empty ones are left out.

    Raises:
        UsageError: it cannot be read, is too large, or no text.
    """
    place = tree.told(file.name)
    try:
        with tree.open(file) as stream:
            content = stream.read(largest + 1)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise usage(who, place, "a text in UTF-8", "other bytes") from None
    except (OSError, ValueError) as error:
        strerror = error.strerror if isinstance(error, OSError) else None
        raise usage(who, place, "readable", strerror or str(error)) from error
    if len(content) > largest:
        raise usage(who, place, f"of {largest:,} bytes at most", f"{file.size:,} bytes")
    return [line for line in text.splitlines() if line.strip()]


class Folder:
    """A folder on the disk as a `Tree`; hidden files and folders are passed over.

    Args:
        who: whose data they are, for messages.
        path: the root. It may be a link itself.
    """

    def __init__(self, who: str, path: Path) -> None:
        self._who, self._path, self._real = who, path, os.path.realpath(path)

    def level(self, below: str = "") -> Level:
        """List one folder.

        Raises:
            UsageError: it cannot be read, or has a link that leads out of the root, to nothing or to a folder
                that it is in, or something that is no file and no folder.
        """
        folders, files = [], []
        try:
            if not os.path.lexists(self._path / below):
                return Level([], [])
            self._check_link(below)
            with os.scandir(self._path / below) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name in LITTER:
                        continue
                    name = join(below, entry.name)
                    if entry.is_symlink():
                        self._check_link(name)
                    if entry.is_dir():
                        folders.append(entry.name)
                    else:
                        files.append(self._file(name, entry.stat()))
        except OSError as error:
            raise self._unreadable(below, error) from error
        return Level(sorted(folders), sorted(files))

    def open(self, file: File) -> BinaryIO:
        """Open a file for reading."""
        return open(os.path.join(self._path, file.name), "rb")

    def told(self, name: str) -> str:
        """Write a file's place for people, in full."""
        return shown(self._path / name)

    def file(self, name: str) -> File | None:
        """Find a file by its name from the root; None if there is none, or if it is a folder.

        Raises:
            UsageError: it cannot be read, or is a link that leads out of the root or to nothing.
        """
        path = self._path / name
        try:
            if os.path.lexists(path):
                self._check_link(name)
            if path.is_file():
                return self._file(name, path.stat())
        except OSError as error:
            raise self._unreadable(name, error) from error
        return None

    def _file(self, name: str, found: os.stat_result) -> File:
        if not stat.S_ISREG(found.st_mode):
            raise usage(
                self._who, self.told(name), "a file or a folder", "something else (a pipe, a device)",
                "Take it away.",
            )  # fmt: skip
        return File.found(name, found)

    def _check_link(self, name: str) -> None:
        """Refuse what a link brings in from elsewhere, or leads to nothing, or round in a circle."""
        real = os.path.realpath(self._path / name)
        parent = os.path.realpath((self._path / name).parent) if name else ""
        if not within(self._real, real):
            fault = f"leads out of {shown(self._path)}"
        elif not os.path.exists(real):
            fault = "leads to nothing"
        elif parent and within(real, parent):
            fault = "leads to a folder that it stands in"
        else:
            return
        raise UsageError(
            f"{self._who}: {self.told(name)} is a link that {fault}: {shown(real)}. Put a copy there "
            f"instead, or name another folder as the root."
        )

    def _unreadable(self, name: str, error: OSError) -> UsageError:
        return usage(self._who, self.told(name), "readable", error.strerror or str(error))


def within(outer: str, inner: str) -> bool:
    """Say whether a path is another one or below it; both are real paths."""
    return os.path.commonpath([outer, inner]) == outer

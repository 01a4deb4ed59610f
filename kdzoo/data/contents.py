"""What is in files that stay where they are: hashes of their contents, by which data is told from other data.

Every file is read once. Its hash is remembered in kdzoo's cache under a mark of name, size, times of change
and inode, so that later starts read nothing: `hashes/PLACE.bin` has a line that names the format, 48 bytes
for each file (mark, SHA-256), and the SHA-256 of all that. It is written under another name and renamed; one
that is damaged is made again, and a cache that cannot be written stops nobody.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from kdzoo.checks import StorageError, UsageError
from kdzoo.data import progress
from kdzoo.data.places import ELSEWHERE, cache, few, shown
from kdzoo.data.threads import in_order, processors
from kdzoo.data.trees import File, within
from kdzoo.files import write_atomic

Rows = npt.NDArray[np.uint8]

_HEAD = b"kdzoo hashes 1\n"
_MARK, _HASH = 16, 32
# A file may change twice within one tick of the system's clock, 2 s where it is coarsest (FAT), and its mark
# is the same: the hash of one that was changed so lately is not remembered.
SETTLED = 2 * 10**9
SAVE_SECONDS = 60.0  # between two writes of what was hashed so far: a kill loses no more
MOST_PLACES = 32  # folders of which hashes are remembered, the latest used ones
LARGEST = 10**9  # bytes of such a file, for 20 million pictures
BLOCK = 1 << 20


class Altered(OSError):
    """A file is not the one that was listed; str() says it in words that follow its name."""


def content_hashes(who: str, root: Path, files: Sequence[File]) -> Rows:
    """Give the SHA-256 of each file's content.

    Args:
        who: whose data they are, for messages.
        root: folder of the files.
        files: as they were listed a moment ago.

    Returns:
        [N, 32] bytes.

    Raises:
        UsageError: files that cannot be read, or that change while they are: how many, and the first names.
    """
    known = _Known(root, files)
    missing = np.flatnonzero(~known.there)
    if len(missing):
        try:
            _read_all(who, root, [files[int(i)] for i in missing], known, missing)
        finally:
            known.save(who)
    known.touch()
    return known.hashes


def _read_all(
    who: str, root: Path, files: Sequence[File], known: _Known, places: npt.NDArray[np.intp]
) -> None:
    def piece(part: Sequence[File]) -> list[tuple[bytes | str, bool]]:
        return [_read(root, file) for file in part]

    faults, done, saved = [], 0, time.monotonic()
    pieces = in_order(piece, files, processors())
    for results in progress.counted(f"reading {who}", len(files), pieces):
        for place, (found, settled) in zip(places[done : done + len(results)], results, strict=True):
            if isinstance(found, str):
                faults.append(found)
            else:
                known.add(place, found, settled)
        done += len(results)
        if time.monotonic() - saved > SAVE_SECONDS:
            known.save(who)
            saved = time.monotonic()
    if faults:
        count = f"{len(faults):,} of {len(files):,} images" if len(faults) > 1 else "an image"
        raise UsageError(
            f"{who}: cannot use {count}: {few(faults)}. Mend that and run the same command again."
        )


def _read(root: Path, file: File) -> tuple[bytes | str, bool]:
    """Hash one file; say as well whether it was left alone for so long that its mark tells of any change."""
    path = os.path.join(root, file.name)
    try:
        with open_regular(path) as stream:
            content = _hash(stream)
            if File.found(file.name, os.fstat(stream.fileno())) != file:
                raise Altered("was changed while it was read")
        return content, time.time_ns() - file.changed > SETTLED
    except Altered as error:
        return f"{shown(path)} {error}", False
    except OSError as error:
        return f"{shown(path)} cannot be read: {error.strerror or error}", False


def open_regular(path: str | bytes) -> BinaryIO:
    """Open a file for reading; a pipe or a device, at which a reader would wait, is refused.

    Raises:
        OSError: it cannot be opened, or is no file.
    """
    # Without waiting: for files it makes no difference.
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = open(number, "rb")  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(number).st_mode):
        file.close()
        raise Altered("is no file any more")
    return file


def open_known(root: bytes, name: bytes, mark: bytes, content: bytes) -> BinaryIO:
    """Open a file whose content is known, as long as it has it.

    Args:
        root: folder.
        name: of the file from there.
        mark: that it had when it was listed.
        content: its hash.

    Raises:
        OSError: it is not there any more, is another one now, or leads out of the folder.
    """
    path = os.path.join(root, name)
    file = open_regular(path)
    try:
        if File.found(os.fsdecode(name), os.fstat(file.fileno())).mark == mark:
            return file
        # Perhaps its rights alone were changed, or the same picture was put there again.
        outer, inner = (os.fsdecode(os.path.realpath(place)) for place in (root, path))
        if not within(outer, inner):
            raise Altered("leads out of its folder now")
        if _hash(file) != content:
            raise Altered("was changed since this run began")
        file.seek(0)
        return file
    except BaseException:
        file.close()
        raise


def _hash(file: BinaryIO) -> bytes:
    digest = hashlib.sha256()
    while block := file.read(BLOCK):
        digest.update(block)
    return digest.digest()


class _Known:
    """The hashes of some files: those that are remembered, and those that are added.

    Args:
        root: folder of the files.
        files: all of them.

    Attributes:
        hashes: [N, 32] bytes.
        there: [N] which of them are known.
    """

    def __init__(self, root: Path, files: Sequence[File]) -> None:
        place = hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]
        self._path = cache() / "hashes" / f"{place}.bin"
        self._marks: Rows = np.frombuffer(b"".join(file.mark for file in files), np.uint8).reshape(-1, _MARK)
        self.hashes: Rows = np.zeros((len(files), _HASH), np.uint8)
        self.there = np.zeros(len(files), np.bool_)
        kept = self._kept()
        if len(kept) and len(files):
            self._take(kept)
        self._lasting = self.there.copy()
        self._unsaved, self._writable = False, True

    def _kept(self) -> Rows:
        """Read what is remembered; nothing of a file that is damaged."""
        nothing: Rows = np.zeros((0, _MARK + _HASH), np.uint8)
        try:
            with open(self._path, "rb") as file:
                content = file.read(LARGEST + 1)
        except OSError:
            return nothing
        body, check = content[len(_HEAD) : -_HASH], content[-_HASH:]
        sound = content.startswith(_HEAD) and len(body) % (_MARK + _HASH) == 0 and len(content) <= LARGEST
        if not sound or hashlib.sha256(body).digest() != check:
            return nothing
        return np.frombuffer(body, np.uint8).reshape(-1, _MARK + _HASH)

    def _take(self, kept: Rows) -> None:
        """Look every mark up by its first 8 bytes, and compare the rest."""
        heads, wanted = (_numbers(rows) for rows in (kept, self._marks))
        order = np.argsort(heads)
        places = order[np.searchsorted(heads, wanted, sorter=order).clip(max=len(kept) - 1)]
        self.there = (kept[places, :_MARK] == self._marks).all(axis=1)
        self.hashes[self.there] = kept[places[self.there], _MARK:]

    def add(self, place: int, content: bytes, settled: bool) -> None:
        """Take a file's hash; it is remembered if any later change of the file will be seen (`settled`)."""
        self.hashes[place] = np.frombuffer(content, np.uint8)
        self.there[place] = True
        self._lasting[place] = settled
        self._unsaved |= settled

    def save(self, who: str) -> None:
        """Write what is new, and say so once if that cannot be done: then it is read again at the next
        start."""
        if not (self._unsaved and self._writable):
            return
        self._unsaved = False
        rows = np.concatenate([self._marks, self.hashes], axis=1)[self._lasting].tobytes()
        if len(rows) > LARGEST - len(_HEAD) - _HASH:
            return
        try:
            write_atomic(self._path, _HEAD + rows + hashlib.sha256(rows).digest(), ELSEWHERE)
            self._tidy()
        except (StorageError, OSError) as error:
            self._writable = False
            progress.message(
                f"{who}: the hashes of its files are not kept, and will be made again at the next start: "
                f"{str(error).splitlines()[0]}"
            )

    def touch(self) -> None:
        """Note that it was used."""
        try:
            os.utime(self._path)
        except OSError:
            return

    def _tidy(self) -> None:
        """Take away what dead processes left behind, and what was not used for longest."""
        folder, now = self._path.parent, time.time()
        for part in folder.glob(".*.part"):
            if now - part.stat().st_mtime > 3600:
                part.unlink(missing_ok=True)
        older = sorted(folder.glob("*.bin"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in older[MOST_PLACES:]:
            path.unlink(missing_ok=True)


def _numbers(rows: Rows) -> npt.NDArray[np.uint64]:
    return np.ascontiguousarray(rows[:, :8]).view(np.uint64)[:, 0]

"""Files that are either whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from kdzoo.checks import StorageError

# What a user can do to write in another place.
WORK_DIR = "choose another --work-dir"
OUTPUT = "choose another --output"


@contextmanager
def atomic(path: Path, size: int, elsewhere: str = WORK_DIR) -> Iterator[BinaryIO]:
    """Open a file for writing so that a reader, a kill or a full disk finds the old content or the new, never
    a part.

    Args:
        path: where to; missing folders are made.
        size: bytes that will be written, for the message.
        elsewhere: what the user can do to write in another place, for the message.

    Raises:
        StorageError: the disk is full, or the place cannot be written; what was there before is untouched.
    """
    # One name a process: two processes may write the same file, and the last rename wins whole.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        # The rename itself must survive a power cut.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        # What goes into a work directory is part of a run.
        goes_on = ": it goes on from the last good state" if elsewhere == WORK_DIR else ""
        raise StorageError(
            f"cannot write {path} ({size} bytes): {error.strerror or error}. Make room there or {elsewhere}, "
            f"then run the same command again{goes_on}."
        ) from error


def write_atomic(path: Path, content: bytes, elsewhere: str = WORK_DIR) -> None:
    """Write a file by `atomic`.

    Args:
        path: where to; missing folders are made.
        content: what it shall hold.
        elsewhere: what the user can do to write in another place, for the message.

    Raises:
        StorageError: the disk is full, or the place cannot be written; what was there before is untouched.
    """
    with atomic(path, len(content), elsewhere) as file:
        file.write(content)


def write_json(path: Path, content: Any, elsewhere: str = WORK_DIR) -> None:
    """Write JSON by `atomic`: two spaces, keys in their own order, no NaN (which is no JSON)."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomic(path, text.encode(), elsewhere)


def open_lock(folder: Path, elsewhere: str = WORK_DIR) -> FileLock:
    """Give the lock of a folder, not yet acquired; the folder is made. It dies with its process.

    Args:
        folder: whose lock.
        elsewhere: what the user can do to write in another place, for the message.

    Raises:
        StorageError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    except OSError as error:
        raise StorageError(
            f"cannot write in {folder}: {error.strerror or error}. {elsewhere[0].upper()}{elsewhere[1:]}."
        ) from error
    # Whichever thread gives it back.
    return FileLock(folder / ".lock", thread_local=False)

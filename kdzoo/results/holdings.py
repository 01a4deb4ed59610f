"""What a work directory holds, thing by thing: artifacts, banks, checkpoints, finished runs.

Nothing here knows torch: what a thing is stands in the names of folders and files (DESIGN.md, section 7).
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kdzoo.checks import KdzooError, StorageError, UsageError
from kdzoo.results.schema import LARGEST_FILE, Mismatch, parse
from kdzoo.results.store import CHECKPOINT, RECORD, read_record
from kdzoo.results.words import counted, crop, listed, printable

ARTIFACTS, BANKS, CHECKPOINTS, RUNS = "artifacts", "banks", "checkpoints", "runs"
LOCK, SETTINGS = ".lock", "settings.json"


@dataclass(frozen=True)
class Thing:
    """What can be removed as one: a folder, or the files in it that are of one kind.

    Attributes:
        kind: "artifacts", "banks", "checkpoints" (all of what is unfinished) or "runs" (finished ones).
        name: path of the folder in the work directory.
        folder: where it is.
        files: all of its files, and links, which are not followed.
        size: bytes that they take on the disk; a sparse file takes less than its length.
        changed: when the newest of them was written, seconds since 1970; a lock is written by each use.
        about: what a user would like to know.
    """

    kind: str
    name: str
    folder: Path
    files: tuple[Path, ...]
    size: int
    changed: float
    about: str


def find_things(work_dir: Path) -> list[Thing]:
    """List what a work directory holds.

    Raises:
        UsageError: there is no such folder.
        StorageError: a folder cannot be read.
    """
    if not work_dir.is_dir():
        raise UsageError(f"kdzoo work: there is no work directory {work_dir}. Name one by --work-dir.")
    runs, banks = _folders(work_dir, f"{RUNS}/*/*/*/*"), _folders(work_dir, f"{BANKS}/*")
    users = _users(runs)
    found = [_thing(work_dir, BANKS, folder, _all(folder), _settings(folder)) for folder in banks]
    for folder in _folders(work_dir, f"{ARTIFACTS}/*"):
        found += _artifact(work_dir, folder, users)
    for folder in runs:
        found += _with_checkpoints(work_dir, folder, RECORD, RUNS, "finished")
    return sorted((t for t in found if t.files), key=lambda t: (-t.size, t.name))


def _folders(work_dir: Path, pattern: str) -> list[Path]:
    return sorted(path for path in work_dir.glob(pattern) if path.is_dir() and not path.name.startswith("."))


def _all(folder: Path) -> list[Path]:
    """List the files below a folder; a link to a folder is one, too."""
    found = []
    for place, below, names in os.walk(folder, onerror=_unreadable):
        links = [name for name in below if os.path.islink(os.path.join(place, name))]
        found += [Path(place, name) for name in (*names, *links)]
    return found


def _unreadable(error: OSError) -> None:
    raise StorageError(f"cannot read {error.filename}: {error.strerror}. Check its permissions.") from error


def _thing(work_dir: Path, kind: str, folder: Path, files: Iterable[Path], about: str) -> Thing:
    kept, size, changed = [], 0, 0.0
    for file in files:
        # One that another process removed meanwhile is no part of it.
        with suppress(FileNotFoundError):
            stat = file.lstat()
            kept.append(file)
            size, changed = size + stat.st_blocks * 512, max(changed, stat.st_mtime)
    return Thing(kind, str(folder.relative_to(work_dir)), folder, tuple(kept), size, changed, about)


def _artifact(work_dir: Path, folder: Path, users: Mapping[str, Counter[str]]) -> list[Thing]:
    # The folder's name ends with the first digits of the key.
    by = [f"{counted(n, 'runs')} of {b}" for b, n in sorted(users[folder.name[-8:]].items())]
    about = f"used by {', '.join(by) or 'no finished run here'}"
    return _with_checkpoints(work_dir, folder, SETTINGS, ARTIFACTS, about)


def _with_checkpoints(work_dir: Path, folder: Path, whole: str, kind: str, about: str) -> list[Thing]:
    """Give what is in a folder in which something is trained; it is done where the file `whole` is there."""
    files = _all(folder)
    if not (folder / whole).is_file():
        return [_thing(work_dir, CHECKPOINTS, folder, _but_locks(files), _position(files))]
    # A kill between that file and the end of the checkpoints leaves them.
    left = [file for file in files if CHECKPOINT.fullmatch(file.name) or file.name.endswith(".part")]
    own = [file for file in files if file not in left]
    return [
        _thing(work_dir, kind, folder, own, about),
        _thing(work_dir, CHECKPOINTS, folder, left, "left over by what is finished"),
    ]


def _but_locks(files: list[Path]) -> list[Path]:
    """Give nothing for a folder that holds a lock alone: one that is just begun, or whose training failed."""
    return files if any(file.name != LOCK for file in files) else []


def _position(files: Iterable[Path]) -> str:
    names = [CHECKPOINT.fullmatch(file.name) for file in files]
    epoch, step = max(((int(m[1]), int(m[2])) for m in names if m), default=(0, 0))
    return f"after epoch {epoch}" + (f", step {step}" if step else "") if epoch or step else "no checkpoint"


def _users(runs: Iterable[Path]) -> defaultdict[str, Counter[str]]:
    """Count the finished runs that used each artifact, by the first digits of its key and by benchmark."""
    users: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for folder in runs:
        # What is damaged is told where it is needed; room can be made beside it.
        with suppress(KdzooError):
            record = read_record(folder)
            for notes in record.artifacts.values() if record else ():
                users[notes["key"][:8]][record.benchmark if record else ""] += 1
    return users


def _settings(folder: Path) -> str:
    """Put the plain settings of a bank into a few words, hashes by their first digits."""
    try:
        with open(folder / SETTINGS, "rb") as file:
            content = parse(file.read(LARGEST_FILE + 1))
    except (OSError, Mismatch):
        content = None
    plain = content if isinstance(content, dict) else {}
    short = {
        name: value[:8] if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else value
        for name, value in plain.items()
        if isinstance(value, (str, int, float))
    }
    return crop(printable(listed(short)), 80)

"""Where records lie: runs/<benchmark>/<protocol>-<hash8>/<seed>/<method>-<key8>/record.json."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from kdzoo.checks import StorageError, UsageError
from kdzoo.files import write_json
from kdzoo.results.record import Record
from kdzoo.results.schema import LARGEST_FILE

RECORD = "record.json"
# A member's or an artifact's, with the finished epochs and the finished steps of the epoch after them.
CHECKPOINT = re.compile(r"checkpoint-(\d+)-(\d+)\.safetensors")
_WORK_FOLDERS = {"runs", "artifacts", "banks"}  # where a work directory keeps JSON that is no record


def run_folder(
    work_dir: Path, benchmark: str, protocol_name: str, protocol_hash: str, seed: int, method: str, key: str
) -> Path:
    """Name the folder of a member; its parts are names only, so that no text leads out of `work_dir`.

    Args:
        work_dir: the work directory.
        benchmark: the config's name.
        protocol_name: readable name of the protocol.
        protocol_hash: hash of the protocol; its first 8 digits show.
        seed: the run's seed.
        method: canonical spelling.
        key: the member's key; its first 8 digits show and keep alike methods apart.
    """
    for name, digits in (("protocol hash", protocol_hash), ("key", key)):
        if not re.fullmatch("[0-9a-f]{8,64}", digits):
            raise ValueError(f"the {name} must be hexadecimal, got {digits!r}")
    protocol = f"{slug(protocol_name)}-{protocol_hash[:8]}"
    return work_dir / "runs" / slug(benchmark) / protocol / str(int(seed)) / f"{slug(method)}-{key[:8]}"


def slug(name: str, longest: int = 60) -> str:
    """Turn any text into a safe file name: letters, digits and "._+=-", no dot in front, bounded length."""
    safe = re.sub(r"[^A-Za-z0-9._+=-]+", "-", name)[:longest].strip(".-")
    return safe or "unnamed"


def write_record(folder: Path, record: Record) -> None:
    """Write a member's record.json: whole or not at all, and only if `read_record` will take it.

    Raises:
        UsageError: the record breaks a rule of its schema.
        StorageError: the disk is full, or the folder cannot be written.
    """
    path = folder / RECORD
    write_json(path, Record.from_json(record.to_json(), str(path)).to_dict())


def read_record(folder: Path) -> Record | None:
    """Read the record of a member's folder; None while it has none.

    Raises:
        UsageError: record.json is no sound record.
    """
    path = folder / RECORD
    return _read(path) if path.is_file() else None


def read_records(paths: Iterable[Path]) -> list[Record]:
    """Find and read records.

    Args:
        paths: files, which must be records, and folders, which are searched: work directories (or folders
            inside one) for record.json, other folders, such as committed results, for every *.json. Links are
            not followed out of a folder.

    Returns:
        The records in a fixed order; one that was found twice stands once.

    Raises:
        UsageError: a path does not exist, a file is no sound record, or two files differ about one member.
        StorageError: a file or folder cannot be read.
    """
    files = {file.resolve(): file for path in paths for file in _files(Path(path))}
    return merge((str(file), _read(file)) for file in sorted(files.values()))


def merge(found: Iterable[tuple[str, Record]]) -> list[Record]:
    """Order records, and keep one of those that tell the same member alike.

    Args:
        found: records with the names of their places.

    Raises:
        UsageError: two have the same key but differ in what must repeat.
    """
    kept: dict[str, tuple[str, Record]] = {}
    for place, record in sorted(found, key=lambda item: (item[1].to_json(), item[0])):
        first_place, first = kept.setdefault(record.key, (place, record))
        if first.repeatable() != record.repeatable():
            ours, theirs = first.repeatable(), record.repeatable()
            differing = ", ".join(name for name in ours if ours[name] != theirs[name])
            raise UsageError(
                f"{first_place} and {place}: records with the same key must tell the same, they differ in "
                f"{differing}. One of them was edited, or training did not repeat: leave one out, or train "
                "that member again."
            )
    return sorted((record for _, record in kept.values()), key=_order)


def _order(record: Record) -> tuple[str, str, str, int, str, str]:
    protocol = record.protocol
    return record.benchmark, protocol["name"], protocol["hash"], record.seed, record.method, record.key


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise UsageError(
            f"{path}: there is no such file or folder. Give a work directory, or the records themselves."
        )
    root = path.resolve()
    # A folder inside a work directory is at most five below runs/.
    inside = bool(_WORK_FOLDERS.intersection(root.parts[-6:]))
    for folder, names, files in os.walk(path, onerror=_unreadable):
        near = {*Path(folder).relative_to(path).parts, *names}
        in_work_directory = inside or bool(_WORK_FOLDERS.intersection(near))
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in files:
            any_json = name.endswith(".json") and not name.startswith(".") and not in_work_directory
            file = Path(folder, name)
            if (name == RECORD or any_json) and file.is_file() and file.resolve().is_relative_to(root):
                yield file


def _unreadable(error: OSError) -> None:
    raise StorageError(f"cannot read {error.filename}: {error.strerror}. Check its permissions.") from error


def _read(path: Path) -> Record:
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}. Check its permissions.") from error
    return Record.from_json(content, str(path))

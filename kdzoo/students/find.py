"""From what a user types to the folder of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kdzoo.checks import UsageError, unknown
from kdzoo.results.record import Record
from kdzoo.results.store import RECORD, read_record

WHO = "RUN"


def find_run(name: str | Path, work_dir: Path = Path("work_dirs")) -> tuple[Path, Record]:
    """Find a finished run.

    Args:
        name: its folder, its record.json, or its method, where the work directory has one such run.
        work_dir: where a method is looked for.

    Returns:
        The folder, and the record in it.

    Raises:
        UsageError: there is none, there are several (which), or its training diverged.
    """
    path = Path(name)
    if path.name == RECORD and path.is_file():
        path = path.parent
    if path.is_dir():
        record = read_record(path)
        if record is None:
            raise UsageError(
                f"{WHO}: {path} has no {RECORD}. Name the folder of a finished member, as in "
                "work_dirs/runs/<benchmark>/<protocol>/<seed>/<method>-<key>, or a method."
            )
    else:
        path, record = _by_method(str(name), work_dir)
    if record.status == "diverged":
        raise UsageError(
            f"{WHO}: the training of {path} diverged in epoch {record.diverged_at}: it left no student."
        )
    return path, record


def _by_method(name: str, work_dir: Path) -> tuple[Path, Record]:
    found: Mapping[Path, Record] = {
        path.parent: record
        for path in sorted(work_dir.glob(f"runs/*/*/*/*/{RECORD}"))
        if (record := read_record(path.parent)) is not None
    }
    if not found:
        raise UsageError(
            f"{WHO}: there is no folder {name}, and {work_dir} has no finished runs. Name the folder of one, "
            "or another --work-dir."
        )
    matching = {path: record for path, record in found.items() if record.method == name}
    if not matching:
        raise unknown(f"{WHO} (neither a folder nor a finished run in {work_dir})", "method", name,
                      sorted({record.method for record in found.values()}))  # fmt: skip
    if len(matching) > 1:
        some = ", ".join(map(str, list(matching)[:3])) + (", ..." if len(matching) > 3 else "")
        raise UsageError(f"{WHO}: {len(matching)} runs of {name!r} are in {work_dir}. Name a folder: {some}")
    return next(iter(matching.items()))

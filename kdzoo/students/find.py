"""From what a user types to the folder of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdzoo.checks import Problems, UsageError, unknown
from kdzoo.methods import Defaults, resolve
from kdzoo.results.record import Record
from kdzoo.results.store import RECORD, read_record, slug

WHO = "RUN"
SHOWN = 10


def find_run(
    name: str | Path, work_dir: Path = Path("work_dirs"), benchmark: str | None = None
) -> tuple[Path, Record]:
    """Find a finished run.

    Args:
        name: its folder, its record.json, or its method, where the work directory has one such run.
        work_dir: where a method is looked for.
        benchmark: the one whose runs are looked at for a method; None looks at all.

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
        path, record = _by_method(str(name), work_dir, benchmark)
    if record.status == "diverged":
        raise UsageError(
            f"{WHO}: the training of {path} diverged in epoch {record.diverged_at}: it left no student."
        )
    return path, record


def _by_method(name: str, work_dir: Path, benchmark: str | None) -> tuple[Path, Record]:
    found: dict[Path, Record] = {}
    damaged = Problems()
    for path in sorted(work_dir.glob(f"runs/{slug(benchmark) if benchmark else '*'}/*/*/*/{RECORD}")):
        # One damaged record keeps nobody from the others.
        with damaged:
            record = read_record(path.parent)
            if record is not None:
                found[path.parent] = record
    matching = [p for p, record in found.items() if record.method == name] or [
        p for p, record in found.items() if _means(name, record)
    ]
    where = f"{work_dir}" + (f" of benchmark {benchmark!r}" if benchmark else "")
    if not matching:
        damaged.raise_all()
    if not matching and Path(name).parent != Path("."):
        raise UsageError(
            f"{WHO}: there is no folder {name}. Name the folder of a finished member, or a method."
        )
    if not found:
        raise UsageError(
            f"{WHO}: there is no folder {name}, and {where} has no finished runs. Name the folder of one, "
            "or another --work-dir."
        )
    if not matching:
        raise unknown(f"{WHO} (neither a folder nor a finished run in {where})", "method", name,
                      sorted({record.method for record in found.values()}))  # fmt: skip
    if len(matching) > 1:
        newest = sorted(matching, key=lambda path: (path / RECORD).stat().st_mtime, reverse=True)
        some = [f"\n  {path}" for path in newest[:SHOWN]]
        raise UsageError(
            f"{WHO}: {len(matching)} runs of {name!r} are in {where}. Name a folder, the newest first:"
            + "".join(some) + (f"\n  and {len(matching) - SHOWN} older ones" if len(matching) > SHOWN else "")
        )  # fmt: skip
    return matching[0], found[matching[0]]


def _means(name: str, record: Record) -> bool:
    """Whether a spelling that says what goes without saying, such as kd:alpha=0.9, is a record's method."""
    settings, spelled = record.settings["method"], record.method

    def usual(part: str, options: str) -> dict[str, dict[str, Any]]:
        kept = {n: v for n, v in (settings[options] or {}).items() if f":{n}=" not in spelled}
        return {settings[part]: kept} if settings[part] else {}

    defaults = Defaults(
        record.settings["epochs"], usual("distiller", "options"), usual("source", "source_options")
    )
    try:
        return resolve(name, defaults).name == spelled
    except UsageError:
        return False

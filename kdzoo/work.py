"""`kdzoo work`: what a work directory holds is listed, and what of it can be made again is let go."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from fnmatch import fnmatchcase
from itertools import accumulate
from pathlib import Path

from filelock import FileLock, Timeout

from kdzoo.checks import Problems, StorageError, UsageError, unknown, usage
from kdzoo.results.holdings import ARTIFACTS, BANKS, CHECKPOINTS, LOCK, RUNS, SETTINGS, Thing
from kdzoo.results.store import RECORD
from kdzoo.results.words import counted, printable, sized

# How `ls` calls them, in the order of its sections.
TITLES = {
    ARTIFACTS: "artifacts", BANKS: "teacher banks", CHECKPOINTS: "checkpoints of what is unfinished",
    RUNS: "finished runs, with their records and students",
}  # fmt: skip


def listing(work_dir: Path, things: Sequence[Thing], *, verbose: bool = False) -> str:
    """Say what a work directory holds, what takes most room first.

    Args:
        work_dir: whose it is.
        things: what `find_things` gave.
        verbose: whether to show finished runs one by one, not by the folder of their protocol.
    """
    from tabulate import tabulate

    lines = [f"{work_dir}: {sized(sum(t.size for t in things))}"]
    for kind, title in TITLES.items():
        chosen = [t for t in things if t.kind == kind]
        if not chosen:
            continue
        lines += ["", f"{title}: {sized(sum(t.size for t in chosen))}"]
        if kind == RUNS and not verbose:
            chosen = _by_protocol(chosen)
        rows = [
            [f"  {printable(t.name)}", sized(t.size), time.strftime("%Y-%m-%d", time.localtime(t.changed)),
             t.about]
            for t in chosen
        ]  # fmt: skip
        align = ("left", "right", "left", "left")
        table = tabulate(
            rows, tablefmt="plain", colalign=align, disable_numparse=True, preserve_whitespace=True
        )
        lines += [line.rstrip() for line in table.splitlines()]
    return "\n".join(lines)


def _by_protocol(runs: Iterable[Thing]) -> list[Thing]:
    groups: defaultdict[Path, list[Thing]] = defaultdict(list)
    for run in runs:
        groups[Path(run.name).parent.parent].append(run)
    merged = [
        Thing(RUNS, str(name), group[0].folder.parent.parent, (), sum(t.size for t in group),
              max(t.changed for t in group), counted(len(group), "runs"))
        for name, group in groups.items()
    ]  # fmt: skip
    return sorted(merged, key=lambda t: (-t.size, t.name))


def select(
    things: Sequence[Thing], what: Sequence[str], work_dir: Path, *, finished: bool = False
) -> list[Thing]:
    """Find what a user names.

    Args:
        things: what `find_things` gave.
        what: "checkpoints", or names as `listing` shows them, whole, their last part, or a folder above them
            ("banks"); with the wildcards *, ? and [].
        work_dir: whose things they are.
        finished: whether finished runs may be among them.

    Raises:
        UsageError: a name that nothing has (with the nearest), one that leads out of the work directory or
            through a link, or finished runs; all that is wrong, a line each.
    """
    problems, chosen = Problems(), []
    for word in what:
        with problems:
            found = _named(things, word, work_dir)
            precious = [t for t in found if t.kind == RUNS]
            if precious and not finished:
                raise UsageError(
                    f"kdzoo work rm: {word} names {counted(len(precious), 'finished runs')}, whose records "
                    f"and students nothing brings back. Add --finished to remove them, or name {CHECKPOINTS}."
                )
            for thing in found:
                _check_place(thing, work_dir)
            chosen += [t for t in found if t not in chosen]
    problems.raise_all()
    return chosen


def _named(things: Sequence[Thing], word: str, work_dir: Path) -> list[Thing]:
    if word == CHECKPOINTS:
        return [t for t in things if t.kind == CHECKPOINTS]
    pattern = _inside(word, work_dir)
    found = [t for t in things if any(fnmatchcase(name, pattern) for name in _names(t))]
    if not found and word not in TITLES:
        known = [name for t in things for name in (Path(t.name).name, t.name)]
        raise unknown(f"kdzoo work rm, in {work_dir}", "thing", word, dict.fromkeys((*TITLES, *known)))
    return found


def _names(thing: Thing) -> Iterator[str]:
    """Give the names that a thing is found by: its folders from the work directory on, and the last alone."""
    parts = Path(thing.name).parts
    yield from accumulate(parts, "{}/{}".format)
    yield parts[-1]


def _inside(word: str, work_dir: Path) -> str:
    """Give a name as seen from the work directory; a path that leads there from here is one, too."""
    top = os.path.abspath(work_dir)
    for path in (os.path.abspath(word), os.path.normpath(os.path.join(top, word))):
        if path == top:
            break
        if path.startswith(f"{top}/"):
            return os.path.relpath(path, top)
    raise usage("kdzoo work rm", "what to remove", f"inside of the work directory {work_dir}", word)


def _check_place(thing: Thing, work_dir: Path) -> None:
    real = thing.folder.resolve()
    if real != work_dir.resolve() / thing.name:
        raise UsageError(
            f"kdzoo work rm: {thing.name} is reached through a link, and lies in {real}. Remove it by hand."
        )


def free(thing: Thing, *, dry_run: bool = False) -> bool:
    """Remove a thing, unless a running process holds one of its locks.

    Args:
        thing: what to remove.
        dry_run: whether to leave it, and only see if it could be removed.

    Returns:
        Whether nobody holds it.

    Raises:
        StorageError: it cannot be removed.
    """
    with ExitStack() as held:
        try:
            # A link would open, and empty, a file elsewhere.
            for path in (p for p in sorted(thing.folder.rglob(LOCK)) if not p.is_symlink()):
                held.enter_context(FileLock(path, timeout=0))
        except Timeout:
            return False
        except OSError as error:
            raise StorageError(_cannot(thing, error)) from error
        if not dry_run:
            _remove(thing)
    return True


def _remove(thing: Thing) -> None:
    try:
        # What says that all else is there goes first, and the lock last.
        order = {SETTINGS: -1, RECORD: -1, LOCK: 1}
        for file in sorted(thing.files, key=lambda file: order.get(file.name, 0)):
            file.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(_cannot(thing, error)) from error
    for place, _, _ in os.walk(thing.folder, topdown=False):
        # One that is not empty has what came meanwhile, or is of another kind.
        with suppress(OSError):
            os.rmdir(place)


def _cannot(thing: Thing, error: OSError) -> str:
    what = error.filename or thing.folder
    return f"cannot remove {what}: {error.strerror or error}. Check its permissions."

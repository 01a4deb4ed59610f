"""The few views of a teacher bank that a process has open, and the locks of those that it fills."""

from __future__ import annotations

import errno
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from kdzoo.files import open_lock, write_json
from kdzoo.training.bank_entry import Entry
from kdzoo.training.bank_files import DamagedView, View

# Of each entry: the one that is read or filled, and the one that is begun while the last batch of it trains.
OPEN_VIEWS = 2

ELSEWHERE = "choose another --teacher-bank"


def place_of(bank: Path, entry: Entry, view: int | None = None) -> Path:
    """Give the folder of an entry in a bank's, or of one of its views.

    Args:
        bank: folder of the bank.
        entry: what of the samples.
        view: which view of them; None for the entry itself.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", entry.name).strip(".-")[:60] or "entry"
    folder = bank / f"{name}-{entry.key[:8]}"
    return folder if view is None else folder / _name(view)


def _name(view: int) -> str:
    return f"view-{view:06d}"


def _key(found: View) -> tuple[str, str]:
    return found.entry.key, found.folder.name


class Views:
    """Finds views, opens and begins them. Not for two threads at a time.

    Args:
        folder: of the bank.
        samples: in the training set.
        tell: is told of what is damaged.
    """

    def __init__(self, folder: Path, samples: int, tell: Callable[[str], None]) -> None:
        self._folder, self._samples, self._tell = folder, samples, tell
        # By key of the entry and name of the view.
        self._open: OrderedDict[tuple[str, str], View] = OrderedDict()
        self._locks: dict[Path, FileLock] = {}
        # Of views whose rows were found to be wrong: nothing else at their files says so.
        self._spoilt: set[str] = set()

    def numbered(self, view: int) -> list[View]:
        """List what is open of one view, of every entry."""
        return [found for (_, name), found in self._open.items() if name == _name(view)]

    def look(self, entry: Entry, view: int, writable: bool = False) -> View | None:
        """Give a view that is there; None if it is not, or not to be trusted.

        Raises:
            OSError: the system refuses; the files may be sound.
        """
        found = self._open.get((entry.key, _name(view)))
        if found is not None and not found.current():
            self.drop(found)
            found = None
        if found is None:
            folder = place_of(self._folder, entry, view)
            for place in (folder.parent, folder, folder / ".lock"):
                if place.is_symlink():
                    raise OSError(errno.ELOOP, "it is a link, which may lead out of the bank", str(place))
            try:
                found = View.open(folder, entry, self._samples, writable)
            except DamagedView as error:
                self._tell(f"teacher bank: {folder} {error}; its rows are made again.")
                return None
            if found is not None and found.identity in self._spoilt:
                found.close()
                found = None
            if found is None:
                return None
            self._keep(found)
        self._open.move_to_end(_key(found))
        return found

    def fresh(self, entry: Entry, view: int) -> View | None:
        """Give a view as `look`, with the rows that others have written meanwhile.

        Raises:
            OSError: as from `look`.
        """
        found = self.look(entry, view)
        try:
            if found is not None:
                found.refresh()
        except DamagedView as error:
            self.spoil(found, error)
            return None
        return found

    def mine(self, entry: Entry, view: int) -> View | None:
        """Give a view to be written, begun if there is none, or a complete one; None if another process fills
        it.

        Raises:
            OSError: it cannot be written, or there is no room.
        """
        found = self.look(entry, view)
        if found is not None and (found.complete or found.writable):
            return found
        folder = place_of(self._folder, entry, view)
        if not self.lock(folder):
            return None
        if found is not None:
            self._open.pop(_key(found)).close()
            found = None
        try:
            # Another process may have filled it, in part or whole, before the lock was free.
            found = self.look(entry, view, writable=True)
            if found is None:
                if not (folder.parent / "entry.json").is_file():
                    described = {"name": entry.name, "key": entry.key, **entry.described()}
                    write_json(folder.parent / "entry.json", described, ELSEWHERE)
                found = View.begin(folder, entry, self._samples)
                self._keep(found)
        finally:
            if found is None or found.complete:
                self.unlock(folder)
        return found

    def lock(self, folder: Path) -> bool:
        """Take the lock of a view unless another process has it.

        Raises:
            OSError: the folder cannot be written, or has no locks.
        """
        if folder not in self._locks:
            lock = open_lock(folder, ELSEWHERE)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return False
            except NotImplementedError as error:
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK)) from error
            self._locks[folder] = lock
        return True

    def unlock(self, folder: Path) -> None:
        """Give the lock of a view back, if it was taken."""
        lock = self._locks.pop(folder, None)
        if lock is not None:
            lock.release()

    def spoil(self, found: View | None, error: DamagedView) -> None:
        """Let go of a view whose rows are wrong, and read it no more."""
        if found is None:
            return
        self._spoilt.add(found.identity)
        self._tell(f"teacher bank: {found.folder} {error}; its rows are made again.")
        self.drop(found)

    def drop(self, found: View) -> None:
        """Let go of a view and of its lock."""
        if self._open.get(_key(found)) is found:
            del self._open[_key(found)]
            self.unlock(found.folder)
        found.close()

    def drop_all(self, entry: Entry) -> None:
        """Let go of every view of an entry."""
        for found in list(self._open.values()):
            if found.entry.key == entry.key:
                self.drop(found)

    def close(self) -> None:
        """Let go of all of them."""
        for found in list(self._open.values()):
            self.drop(found)

    def _keep(self, found: View) -> None:
        self._open[_key(found)] = found
        beside = [other for other in self._open.values() if other.entry.key == found.entry.key]
        for other in beside[:-OPEN_VIEWS]:
            self.drop(other)

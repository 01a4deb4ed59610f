"""The teacher bank on the disk: rows of tensors by entry, view and sample, written once, read by every run.

It knows nothing of teachers. A bank is a folder with settings.json, and for each entry a folder with
entry.json and one folder a view (`bank_files.py`). Any number of processes read a view while one that holds
its lock writes it. What cannot be trusted is begun anew, and where the disk is full nothing more is kept:
both are said in one message, and training goes on.
"""

from __future__ import annotations

import errno
import json
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdzoo.checks import KdzooError, StorageError
from kdzoo.files import write_json
from kdzoo.training.bank_entry import Entry as Entry
from kdzoo.training.bank_files import DamagedView, Indices
from kdzoo.training.bank_io import bytes_on_disk as bytes_on_disk
from kdzoo.training.bank_io import fetched, number_of, open_file, reason_of, size_of
from kdzoo.training.bank_views import ELSEWHERE, Views, place_of

# Such a refusal is of the place, and no other entry of it need be tried.
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


class _Batch(NamedTuple):
    """Rows that are to be written; those of a GPU are there when the event has happened."""

    entry: Entry
    view: int
    indices: Indices
    rows: Mapping[str, Tensor]
    arrival: torch.cuda.Event | None


class TeacherBank:
    """Reads and writes one bank; any thread may.

    Args:
        folder: of this bank.
        samples: in the training set.
        settings: what tells this bank from others, as JSON; written to settings.json.
        say: is told once of whatever is damaged or cannot be written.

    Raises:
        KdzooError: the folder is a bank with other settings.
    """

    def __init__(
        self, folder: Path, samples: int, settings: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        self._folder, self._samples, self._say = folder, samples, say
        self._views = Views(folder, samples, self._tell)
        self._waiting: deque[_Batch] = deque()
        self._ended: set[str] = set()
        self._told: set[str] = set()
        self._writes = True
        self._mutex = threading.RLock()
        self._introduce(json.loads(json.dumps(dict(settings), allow_nan=False)))

    def read(
        self, entry: Entry, view: int, indices: Indices, *, pin: bool = False
    ) -> dict[str, Tensor] | None:
        """Read the rows of a batch.

        Args:
            entry: what of the samples.
            view: which view of them.
            indices: [n] of the samples, in any order.
            pin: whether to give page-locked memory, which a GPU fetches while the program goes on.

        Returns:
            [n, ...] contiguous tensors on the CPU by name, in memory of their own; None unless all rows are
            there.

        Raises:
            IndexError: an index is of no sample.
        """
        self._check(indices)
        with self._mutex:
            try:
                found = self._views.look(entry, view)
                slots = None if found is None else found.locate(indices)
                if slots is None:
                    self._settle()
                    found = self._views.fresh(entry, view)
                    slots = None if found is None else found.locate(indices)
            except OSError as error:
                self._tell(f"teacher bank: {self.place(entry, view)} cannot be read: {reason_of(error)}.")
                return None
        if found is None or slots is None:
            return None
        try:
            # Outside the mutex: a thread that fetches the next batch stops nobody.
            return found.gather(indices, slots, pin)
        except DamagedView as error:
            with self._mutex:
                self._views.spoil(found, error)
            return None

    def write(self, entry: Entry, view: int, indices: Indices, rows: Mapping[str, Tensor]) -> bool:
        """Keep the rows of a batch; those that are there already are left as they are.

        Rows on a GPU are fetched without waiting for it, and written when a later call finds them here.

        Args:
            entry: what of the samples.
            view: which view of them.
            indices: [n] of the samples, in any order.
            rows: [n, ...] tensors by name, on any device.

        Returns:
            Whether they are kept; not if another process fills that view, or nothing more can be written.

        Raises:
            IndexError: an index is of no sample.
            ValueError: the rows are not what the entry says.
        """
        self._check(indices)
        for name, (shape, dtype) in entry.tensors.items():
            if rows[name].shape != (len(indices), *shape) or rows[name].dtype != dtype:
                raise ValueError(
                    f"teacher bank: {entry.name}.{name} must be {[len(indices), *shape]} of {dtype}, got "
                    f"{list(rows[name].shape)} of {rows[name].dtype}."
                )
        with self._mutex:
            if not self._keep(entry, view):
                return False
            here, arrival = fetched({name: rows[name].detach() for name in entry.tensors})
            self._waiting.append(_Batch(entry, view, indices.copy(), here, arrival))
            return self._settle(but=0 if arrival is None else 1)

    def seal(self, view: int) -> None:
        """Mark a view complete, on the disk, for every entry whose rows are all there.

        One that lacks rows is not brought to the disk: if the machine stops, it is not trusted anyway.
        """
        with self._mutex:
            self._settle()
            for found in self._views.numbered(view):
                try:
                    found.refresh()
                    if found.full and not found.complete and self._views.lock(found.folder):
                        found.finish()
                        self._views.unlock(found.folder)
                except DamagedView as error:
                    self._views.spoil(found, error)
                except OSError as error:
                    self._end(found.entry, error)

    def rows(self, entry: Entry, view: int) -> int:
        """Count the samples whose rows are there."""
        with self._mutex:
            self._settle()
            try:
                found = self._views.fresh(entry, view)
            except OSError:
                return 0
            return 0 if found is None else found.count

    def close(self) -> None:
        """Let go of all files and locks. What was written stays, and can be gone on with."""
        with self._mutex:
            self._settle()
            self._views.close()

    def place(self, entry: Entry, view: int | None = None) -> Path:
        """Give the folder of an entry, or of one of its views."""
        return place_of(self._folder, entry, view)

    def _settle(self, but: int = 0) -> bool:
        """Write the batches that wait for a GPU, but for the newest few."""
        kept = True
        while len(self._waiting) > but:
            batch = self._waiting.popleft()
            if batch.arrival is not None:
                batch.arrival.synchronize()
            kept = self._keep(batch.entry, batch.view, batch) and kept
        return kept

    def _keep(self, entry: Entry, view: int, batch: _Batch | None = None) -> bool:
        """Make a view ready to be written, and write a batch; False if that cannot be."""
        if not self._writes or entry.key in self._ended:
            return False
        found = None
        try:
            found = self._views.mine(entry, view)
            if batch is not None and found is not None and not found.complete:
                found.append(batch.indices, batch.rows)
            return found is not None
        except DamagedView as error:
            self._views.spoil(found, error)
        except OSError as error:
            self._end(entry, error)
        return False

    def _end(self, entry: Entry, error: OSError) -> None:
        self._views.drop_all(entry)
        self._ended.add(entry.key)
        size = f"{entry.view_bytes(self._samples):,} bytes a view"
        if number_of(error) in _READ_ONLY:
            self._writes = False
            self._tell_end("nothing", self._folder, size, error)
        else:
            self._tell_end(f"nothing of {entry.name!r}", self.place(entry), size, error)

    def _tell_end(self, what: str, where: Path, size: str, error: OSError) -> None:
        self._tell(
            f"teacher bank: {what} is kept from here on: cannot write {where} ({size}): {reason_of(error)}. "
            f"Training goes on with the teacher; make room there or {ELSEWHERE}."
        )

    def _introduce(self, settings: Any) -> None:
        """Hold settings.json against what it must be, or write it."""
        path = self._folder / "settings.json"
        try:
            with open(open_file(path), "rb") as file:
                found = json.load(file)
        except FileNotFoundError:
            try:
                write_json(path, settings, ELSEWHERE)
            except StorageError as error:
                self._writes = False
                self._tell_end("nothing", path, "settings", error)
            return
        except (OSError, ValueError, RecursionError) as error:
            raise KdzooError(
                f"teacher bank: {path} cannot be read: {reason_of(error)}. Delete {self._folder} or "
                f"{ELSEWHERE}."
            ) from error
        if found != settings:
            raise KdzooError(
                f"teacher bank: {path} is of a bank with other settings. Delete {self._folder} or "
                f"{ELSEWHERE}."
            )

    def _check(self, indices: Indices) -> None:
        if len(indices) and not (indices.min() >= 0 and indices.max() < self._samples):
            raise IndexError(
                f"teacher bank: indices must be in 0..{self._samples - 1}, got {indices.min()}.."
                f"{indices.max()}."
            )

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            self._say(message)


def needed_bytes(entry: Entry, samples: int, views: int, folder: Path) -> int:
    """Count the bytes that views still need on the disk.

    Args:
        entry: what of the samples.
        samples: in the training set.
        views: how many, from view 0 on.
        folder: of the bank; what it has already is subtracted.
    """
    needed = 0
    for view in range(views):
        place = place_of(folder, entry, view)
        there = sum(size_of(place / name) for name in ("rows", "order"))
        needed += max(0, entry.view_bytes(samples) - there)
    return needed

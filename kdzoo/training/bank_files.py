"""One view of an entry of the teacher bank: rows in the order of writing, and of which sample each is.

    view.json   what the other two are, and whether they are complete
    rows        for each tensor `samples` rows side by side; allocated whole before the first row is written
    order       16 bytes for each row that is there: index of the sample + 1, and a sum of the row's bits

Rows stand in order of writing, not of samples: a batch is one write a tensor, not one a sample; a run that
sees the samples in the same order reads the disk from front to back; and as files are written by system calls
and only read through memory, a full disk is an error, never a signal, on any file system.

Rows go to the file before their places in `order`, both by system calls that take and give back locks of the
kernel: who finds a row in `order`, in this process or another, finds it whole in `rows`. No row is looked at
before: where a file system gave no room beforehand and is full, even reading a gap could end the process. A
killed process leaves that as it is. A machine that stops need not: what it was filling is not trusted by the
next boot, and the sums find what is damaged in any other way.
"""

from __future__ import annotations

import json
import mmap
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdzoo.files import write_json
from kdzoo.keys import hashes
from kdzoo.training.bank_entry import RECORD, Entry
from kdzoo.training.bank_io import Bytes, allocate, bits_of, boot, open_file, sums_of, write_whole

FORMAT = 1  # raised when the same rows give other files

# Rows are summed a piece at a time, while a processor's cache still holds what was copied: measured, a sum
# then costs a sixth of the copy instead of half of it.
_PIECE = 1 << 20

Indices = npt.NDArray[np.int64]
Slots = npt.NDArray[np.int32]


class DamagedView(Exception):
    """The files are not what was written; str() says how, after the folder's name."""


class View:
    """The files of one view, open and mapped.

    Attributes:
        folder: where they are.
        entry: whose rows they have.
        identity: tells them from others that stood or will stand in the same place.
        writable: whether they were opened to be written.
        count: rows that are known to be there.
        complete: whether all are, and on the disk.
    """

    def __init__(self, folder: Path, entry: Entry, samples: int, identity: str, writable: bool) -> None:
        self.folder, self.entry, self.identity, self.writable = folder, entry, identity, writable
        self.count, self.complete = 0, False
        self._samples, self._rows = samples, os.fspath(folder / "rows")
        self._slots: Slots = np.full(samples, -1, np.int32)
        self._sums = np.empty(samples, np.uint64)
        self._files: list[int] = []
        try:
            for name in ("rows", "order"):
                self._files.append(open_file(folder / name, os.O_RDWR if writable else os.O_RDONLY))
            size, wanted = os.fstat(self._files[0]).st_size, samples * entry.row_bytes
            if size != wanted:
                raise DamagedView(f"has {size:,} bytes of rows, not {wanted:,}")
            mapped = mmap.mmap(self._files[0], wanted, access=mmap.ACCESS_READ)
        except BaseException as error:
            self.close()
            if isinstance(error, FileNotFoundError):
                raise DamagedView(f"lacks its {Path(error.filename).name}") from error
            raise
        self._regions: dict[str, Bytes] = {}
        self._begins: dict[str, int] = {}
        begin = 0
        for name, width in entry.widths.items():
            region: Bytes = np.frombuffer(mapped, np.uint8, samples * width, begin)
            self._regions[name], self._begins[name] = region.reshape(samples, width), begin
            begin += samples * width

    @classmethod
    def open(cls, folder: Path, entry: Entry, samples: int, writable: bool = False) -> View | None:
        """Open what is there; None if nothing is.

        Raises:
            DamagedView: it cannot be trusted.
            OSError: the system refuses; the files may be sound.
        """
        try:
            with open(open_file(folder / "view.json"), "rb") as file:
                marker = json.loads(file.read(1 << 16))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            marker = None
        expected = _marker(entry, samples)
        if not isinstance(marker, dict) or {k: marker.get(k) for k in expected} != expected:
            raise DamagedView("has a damaged view.json")
        complete = marker.get("complete") is True
        if not complete and marker.get("boot") != boot():
            raise DamagedView("was not complete when the machine was started anew")
        view = cls(folder, entry, samples, str(marker.get("identity")), writable)
        try:
            view.refresh()
            if complete and not view.full:
                raise DamagedView(f"knows the order of {view.count:,} of {samples:,} rows")
        except BaseException:
            view.close()
            raise
        view.complete = complete
        return view

    @classmethod
    def begin(cls, folder: Path, entry: Entry, samples: int) -> View:
        """Make an empty view in place of whatever is there. The caller has the folder's lock.

        Raises:
            OSError: there is no room, or the folder cannot be written; nothing is left of it.
        """
        identity = uuid.uuid4().hex
        _remove(folder)
        try:
            # New files, never the old ones made shorter: others may have those mapped.
            for name, size in (("rows", samples * entry.row_bytes), ("order", 0)):
                file = open_file(folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
                try:
                    allocate(file, size)
                finally:
                    os.close(file)
            state = {"complete": False, "boot": boot(), "identity": identity}
            write_json(folder / "view.json", _marker(entry, samples) | state)
            return cls(folder, entry, samples, identity, writable=True)
        except BaseException:
            _remove(folder)
            raise

    @property
    def full(self) -> bool:
        """Whether all rows are known to be there."""
        return self.count == self._samples

    def current(self) -> bool:
        """Say whether the folder still has these files: another process may have removed them."""
        try:
            named, own = os.stat(self._rows, follow_symlinks=False), os.fstat(self._files[0])
            return os.path.samestat(named, own)
        except OSError:
            return False

    def refresh(self) -> None:
        """Learn of the rows that were written since the last time, by whomever.

        Raises:
            DamagedView: a sample is there twice.
        """
        if self.full:
            return
        size = RECORD.itemsize
        content = os.pread(self._files[1], (self._samples - self.count) * size, self.count * size)
        records = np.frombuffer(content, RECORD, len(content) // size)
        # 0 wraps round, and is out of range like any other number that is no place.
        wrong = np.flatnonzero(records["place"] - np.uint64(1) >= self._samples)
        self._add(records[: wrong[0]] if len(wrong) else records)

    def _add(self, records: npt.NDArray[Any]) -> None:
        indices = records["place"].astype(np.int64) - 1
        slots = np.arange(self.count, self.count + len(records), dtype=np.int32)
        known = self._slots[indices] >= 0
        self._slots[indices] = slots
        if known.any() or not np.array_equal(self._slots[indices], slots):
            raise DamagedView("has a sample twice")
        self._sums[slots] = records["sum"]
        self.count += len(records)

    def locate(self, indices: Indices) -> Slots | None:
        """Find the rows of samples in the file; None unless all are there."""
        slots: Slots = self._slots[indices]
        return None if len(slots) and slots.min() < 0 else slots

    def gather(self, indices: Indices, slots: Slots, pin: bool) -> dict[str, Tensor]:
        """Copy rows that were located out of the file, and hold each against its sum.

        Raises:
            DamagedView: a row is not what was written.
        """
        count, sums, rows = len(indices), hashes(0, indices), {}
        for name, width in self.entry.widths.items():
            shape, dtype = self.entry.tensors[name]
            rows[name] = torch.empty((count, *shape), dtype=dtype, pin_memory=pin)
            bits = bits_of(rows[name], width)
            step = max(1, _PIECE // width)
            for begin in range(0, count, step):
                piece = slice(begin, begin + step)
                # In the default mode numpy copies twice; every slot is in range here.
                np.take(self._regions[name], slots[piece], axis=0, out=bits[piece], mode="clip")
                sums[piece] += sums_of(bits[piece])
        if not np.array_equal(sums, self._sums[slots]):
            raise DamagedView("has rows that are not what was written")
        return rows

    def append(self, indices: Indices, rows: Mapping[str, Tensor]) -> None:
        """Write the rows of samples that are not there yet. The caller has the folder's lock.

        Raises:
            OSError: there is no room; what was there before is kept.
        """
        self.refresh()
        first = np.unique(indices, return_index=True)[1]
        chosen = np.sort(first[self._slots[indices[first]] < 0])
        if not len(chosen):
            return
        sums = hashes(0, indices[chosen])
        for name, width in self.entry.widths.items():
            bits = bits_of(rows[name].contiguous(), width)
            bits = bits if len(chosen) == len(indices) else bits[chosen]
            sums += sums_of(bits)
            write_whole(self._files[0], bits, self._begins[name] + self.count * width)
        records = np.empty(len(chosen), RECORD)
        records["place"], records["sum"] = indices[chosen] + 1, sums
        write_whole(self._files[1], records, self.count * RECORD.itemsize)
        self._add(records)

    def finish(self) -> None:
        """Bring all to the disk, and say so in view.json. All rows are there.

        Raises:
            OSError: the disk did not take them.
        """
        for file in self._files:
            os.fsync(file)
        if self.current():
            state = {"complete": True, "identity": self.identity}
            write_json(self.folder / "view.json", _marker(self.entry, self._samples) | state)
            self.complete = True

    def close(self) -> None:
        """Let go of the files. The mapping stays as long as a thread gathers from it."""
        while self._files:
            os.close(self._files.pop())


def _marker(entry: Entry, samples: int) -> dict[str, Any]:
    return {"format": FORMAT, "entry": entry.key, "samples": samples, "row_bytes": entry.row_bytes}


def _remove(folder: Path) -> None:
    for name in ("view.json", "order", "rows"):
        (folder / name).unlink(missing_ok=True)

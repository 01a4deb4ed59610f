"""A small bank whose rows are known, and processes that fill it, read it and are killed."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdzoo.training.bank import Entry, TeacherBank

SAMPLES = 48
ALL = np.arange(SAMPLES)
VIEW = 3
# Rows that span pages, so that a half of one can be seen, and ones of an odd number of bytes.
ENTRY = Entry(
    "small", {"class": "Small"}, {"logits": ((5,), torch.float32), "map": ((3, 1400), torch.bfloat16)}
)
# A view of 196 kB, and one of 1 kB.
FAT = Entry("fat", {}, {"hint": ((1024,), torch.float32)})
FAT_ROWS = {"hint": torch.linspace(-1, 1, SAMPLES * 1024).view(SAMPLES, 1024)}
THIN = Entry("thin", {}, {"logits": ((5,), torch.float32)})
THIN_ROWS = {"logits": torch.linspace(-1, 1, SAMPLES * 5).view(SAMPLES, 5)}


def row_values(indices: npt.NDArray[np.int64], view: int) -> dict[str, Tensor]:
    """Give the rows that samples have in a view: each holds its own number everywhere."""
    number = torch.from_numpy(np.asarray(indices, dtype=np.float32)) + 100 * view
    return {
        "logits": number[:, None].expand(-1, 5).contiguous(),
        "map": number.bfloat16()[:, None, None].expand(-1, 3, 1400).contiguous(),
    }


def batches(seed: int = 0) -> Iterator[npt.NDArray[np.int64]]:
    order = np.random.default_rng(seed).permutation(SAMPLES)
    yield from np.split(order, range(5, SAMPLES, 5))


def fill(bank: TeacherBank, view: int = VIEW, entry: Entry = ENTRY, seal: bool = True) -> None:
    """Write all rows of a view."""
    for indices in batches():
        assert bank.write(entry, view, indices, row_values(indices, view))
    if seal:
        bank.seal(view)


def right(bank: TeacherBank, view: int = VIEW, indices: npt.NDArray[np.int64] = ALL) -> bool:
    """Say whether rows are there, and are what was written."""
    found, wanted = bank.read(ENTRY, view, indices), row_values(indices, view)
    return found is not None and all(torch.equal(found[name], wanted[name]) for name in wanted)


def marker(bank: TeacherBank) -> dict[str, Any]:
    """Read what the bank says of the view."""
    content: dict[str, Any] = json.loads((bank.place(ENTRY, VIEW) / "view.json").read_text())
    return content


def check(bank: TeacherBank, view: int) -> int:
    """Hold every row that is there against what it must be, and count them."""
    count = 0
    for index in range(SAMPLES):
        one = np.array([index])
        found = bank.read(ENTRY, view, one)
        if found is not None:
            count += 1
            assert all(torch.equal(found[n], v) for n, v in row_values(one, view).items()), index
    assert count == bank.rows(ENTRY, view)
    return count


def say(message: str) -> None:
    raise AssertionError(message)


def forked(work: Callable[[], None]) -> int:
    """Start a process that works and ends; 1 is the status of one that failed."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return pid


def write_one_by_one(folder: Path, seed: int, began: int | None = None) -> None:
    """Write all rows, a batch a row so that there are many moments; a byte says that the first is there."""
    bank = TeacherBank(folder, SAMPLES, {"seed": 0}, say)
    for index in np.random.default_rng(seed).permutation(SAMPLES):
        bank.write(ENTRY, VIEW, np.array([index]), row_values(np.array([index]), VIEW))
        if began is not None:
            os.write(began, b".")
        time.sleep(0.0002)
    bank.seal(VIEW)


def cut_off(folder: Path, seed: int, call: int) -> None:
    """Write, and die in the middle of a system call that writes."""
    pwrite, calls = os.pwrite, [0]

    def dying(file: int, content: memoryview, begin: int) -> int:
        calls[0] += 1
        if calls[0] < call:
            return pwrite(file, content, begin)
        pwrite(file, content[: len(content) // 2], begin)
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    os.pwrite = dying
    write_one_by_one(folder, seed)


def after_death(folder: Path, pid: int) -> int:
    """Wait for a writer that is killed, and count the rows that it left; all of them are right."""
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    bank = TeacherBank(folder, SAMPLES, {"seed": 0}, say)
    count = check(bank, VIEW)
    bank.close()
    return count


def killed(folder: Path, delays: list[float]) -> list[int]:
    """Kill writers, one after another, each so many seconds after its first row; every fourth begins anew."""
    counts = []
    for seed, delay in enumerate(delays):
        if seed % 4 == 0:
            for path in folder.rglob("view.json"):
                path.unlink()
        ear, mouth = os.pipe()
        pid = forked(functools.partial(_last, folder, seed, mouth))
        os.read(ear, 1)
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        counts.append(after_death(folder, pid))
        os.close(ear)
        os.close(mouth)
    return counts


def _last(folder: Path, seed: int, mouth: int) -> None:
    write_one_by_one(folder, seed, mouth)
    signal.pause()


def cut(folder: Path, calls: list[float]) -> list[int]:
    """Let writers die in the middle of a write, one after another, each going on where the last one died."""
    jobs = [functools.partial(cut_off, folder, seed, int(call)) for seed, call in enumerate(calls)]
    return [after_death(folder, forked(job)) for job in jobs]


def fill_beside(folder: Path, seed: int) -> None:
    """Read every batch, or write it, or find that another process writes: until all is there."""
    bank = TeacherBank(folder, SAMPLES, {"seed": 0}, say)
    for view in range(4):
        while bank.rows(ENTRY, view) < SAMPLES:
            for indices in batches(seed):
                found, wanted = bank.read(ENTRY, view, indices), row_values(indices, view)
                if found is None:
                    bank.write(ENTRY, view, indices, wanted)
                    time.sleep(0.0005)
                else:
                    assert all(torch.equal(found[n], wanted[n]) for n in wanted)
        bank.seal(view)
        assert check(bank, view) == SAMPLES
    bank.close()


def together(folder: Path, seeds: list[float]) -> list[int]:
    """Fill a bank by several processes at once, and give their statuses."""
    children = [forked(functools.partial(fill_beside, folder, int(seed))) for seed in seeds]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def serve() -> None:
    """Answer jobs, lines of JSON, until there are no more."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        work = {"killed": killed, "cut": cut, "together": together}[job["work"]]
        print(json.dumps(work(Path(job["folder"]), job["numbers"])), flush=True)


if __name__ == "__main__":
    serve()

"""The teacher bank among processes and threads: one writes, each reads what is whole, any may be killed."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from banks import ALL, ENTRY, SAMPLES, VIEW, batches, fill, marker, right, row_values

from kdzoo.files import open_lock
from kdzoo.training import bank_files

HELPER = Path(__file__).parents[1] / "helpers" / "banks.py"


def test_a_later_run_goes_on_where_an_earlier_ended(make_bank: Any, said: list[str]) -> None:
    first = make_bank()
    first.write(ENTRY, VIEW, ALL[:9], row_values(ALL[:9], VIEW))
    first.close()
    second = make_bank()
    assert right(second, indices=ALL[:9])
    fill(second)
    assert right(second)
    assert second.rows(ENTRY, VIEW) == SAMPLES
    assert not said


def test_a_run_seals_what_a_killed_one_had_filled(make_bank: Any) -> None:
    first = make_bank()
    fill(first, seal=False)
    first.close()
    second = make_bank()
    assert right(second)
    second.seal(VIEW)
    assert marker(second)["complete"] is True


def test_one_process_writes_a_view_and_the_others_read_it(make_bank: Any, said: list[str]) -> None:
    first, second = make_bank(), make_bank()
    one, two, three = list(batches())[:3]
    assert first.write(ENTRY, VIEW, one, row_values(one, VIEW))
    assert not second.write(ENTRY, VIEW, two, row_values(two, VIEW))
    assert right(second, indices=one)
    assert second.read(ENTRY, VIEW, two) is None
    assert first.write(ENTRY, VIEW, two, row_values(two, VIEW))
    assert right(second, indices=np.concatenate([two, one]))
    # Another view is free.
    assert second.write(ENTRY, VIEW + 1, one, row_values(one, VIEW + 1))
    assert not first.write(ENTRY, VIEW + 1, one, row_values(one, VIEW + 1))
    first.close()
    assert second.write(ENTRY, VIEW, three, row_values(three, VIEW))
    assert right(second, indices=np.concatenate([three, two, one]))
    assert not said


def test_a_view_that_is_replaced_meanwhile_is_read_as_it_is_now(make_bank: Any, said: list[str]) -> None:
    first, second = make_bank(), make_bank()
    fill(first, seal=False)
    assert right(second)
    shutil.rmtree(first.place(ENTRY))
    assert second.read(ENTRY, VIEW, ALL) is None
    first.seal(VIEW)
    other = row_values(ALL, VIEW + 1)
    assert second.write(ENTRY, VIEW, ALL, other)
    # The first, whose files have no name any more, neither reads them nor vouches for the new ones.
    first.seal(VIEW)
    assert marker(first)["complete"] is False
    assert torch.equal(first.read(ENTRY, VIEW, ALL)["map"], other["map"])
    assert not said


def test_threads_read_while_one_writes(make_bank: Any) -> None:
    bank, wrong, done = make_bank(), [], threading.Event()

    def read() -> None:
        random = np.random.default_rng(0)
        while not done.is_set():
            view, indices = int(random.integers(6)), random.integers(0, SAMPLES, 4)
            found = bank.read(ENTRY, view, indices)
            if found is not None and not torch.equal(found["logits"], row_values(indices, view)["logits"]):
                wrong.append((view, indices))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for view in range(6):
            fill(bank, view)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.fixture(scope="module")
def work() -> Iterator[Callable[..., list[int]]]:
    """A function that has a job of helpers/banks.py done; its process is apart from the tests' own."""
    paths = [str(Path(bank_files.__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    server = subprocess.Popen(
        [sys.executable, str(HELPER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip

    def done(name: str, folder: Path, numbers: list[float]) -> list[int]:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps({"work": name, "folder": str(folder), "numbers": numbers}) + "\n")
        server.stdin.flush()
        counts: list[int] = json.loads(server.stdout.readline())
        return counts

    yield done
    server.communicate(timeout=60)


def test_a_writer_killed_at_any_moment_leaves_whole_rows(make_bank: Any, work: Any, tmp_path: Path) -> None:
    """Each of them goes on where the last one died, and every fourth begins."""
    delays = [0.0, *np.random.default_rng(0).uniform(0, 0.02, 23)]
    counts = work("killed", tmp_path / "bank", delays)
    assert len(counts) == len(delays)
    # Some died when a part of the rows was there.
    assert any(0 < count < SAMPLES for count in counts)
    assert make_bank().rows(ENTRY, VIEW) == counts[-1]


def test_a_writer_killed_inside_a_write_leaves_whole_rows(make_bank: Any, work: Any, tmp_path: Path) -> None:
    """A row is three writes: two tensors and its place in the order. Each is cut in half by the death."""
    counts = work("cut", tmp_path / "bank", [1, 2, 3, 4, 5, 6, 10, 11, 12])
    assert counts == [0, 0, 0, 1, 2, 3, 6, 9, 12]
    fill(make_bank())
    assert right(make_bank())


def test_processes_fill_and_read_at_once(make_bank: Any, work: Any, tmp_path: Path) -> None:
    """Without a word, and without a wrong row: the children hold that."""
    assert work("together", tmp_path / "bank", [0, 1, 2]) == [0, 0, 0]
    bank = make_bank()
    assert all(right(bank, view) for view in range(4))


def test_a_lock_is_given_back_by_whichever_thread(tmp_path: Path) -> None:
    lock = open_lock(tmp_path)
    lock.acquire(timeout=0)
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    with open_lock(tmp_path).acquire(timeout=0):
        pass

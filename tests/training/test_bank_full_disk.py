"""A disk that is full, fails or cannot be written ends the keeping of rows, never the run."""

import errno
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from banks import ALL, ENTRY, FAT, FAT_ROWS, SAMPLES, THIN, THIN_ROWS, VIEW, fill, marker, right, row_values

from kdzoo.checks import KdzooError


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no right to mount: {mounted.stderr.decode().strip()}; the file size limit is tested")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def one_clear_line(said: list[str], reason: str) -> None:
    [line] = said
    assert line.startswith("teacher bank: nothing of 'fat' is kept from here on: cannot write")
    assert reason in line
    assert "Training goes on with the teacher; make room there or choose another --teacher-bank." in line


@pytest.mark.parametrize("early", [True, False])
def test_a_full_disk_ends_the_keeping_of_that_entry_alone(
    make_bank: Any, said: list[str], small_disk: Path, monkeypatch: Any, early: bool
) -> None:
    """Whether the file system gives room beforehand, or is found full by a write."""
    if not early:
        monkeypatch.delattr(os, "posix_fallocate")
    bank = make_bank(small_disk / "bank", samples=480)
    some = np.arange(SAMPLES)
    kept = [bank.write(FAT, 0, some + begin, FAT_ROWS) for begin in range(0, 480, SAMPLES)]
    assert not kept[-1]
    assert any(kept) != early
    one_clear_line(said, os.strerror(errno.ENOSPC))
    for begin, was_kept in zip(range(0, 480, SAMPLES), kept, strict=True):
        found = bank.read(FAT, 0, some + begin)
        assert (found is not None) == was_kept
        assert found is None or torch.equal(found["hint"], FAT_ROWS["hint"])
    assert not bank.write(FAT, 0, some, FAT_ROWS)
    assert not bank.write(FAT, 1, some, FAT_ROWS)
    if early:
        # What was not allocated whole takes no room, and another entry has it.
        assert not (bank.place(FAT, 0) / "rows").exists()
        assert bank.write(THIN, 0, some, THIN_ROWS)
    assert len(said) == 1


@pytest.mark.parametrize("name", ["EOPNOTSUPP", "EINVAL"])
def test_a_file_system_that_gives_no_room_beforehand_is_written_all_the_same(
    make_bank: Any, said: list[str], monkeypatch: Any, name: str
) -> None:
    def refuse(*arguments: int) -> None:
        raise OSError(getattr(errno, name), "refused")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    bank = make_bank()
    fill(bank)
    assert right(bank)
    assert not said


def test_given_room_a_later_run_keeps_what_found_none(
    make_bank: Any, said: list[str], small_disk: Path
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(900_000))
    rows = {"hint": FAT_ROWS["hint"]}
    first = make_bank(small_disk / "bank")
    assert not first.write(FAT, 0, ALL, rows)
    first.close()
    ballast.unlink()
    second = make_bank(small_disk / "bank")
    assert second.write(FAT, 0, ALL, rows)
    assert torch.equal(second.read(FAT, 0, ALL)["hint"], FAT_ROWS["hint"])


@pytest.fixture
def largest_file() -> Iterator[Callable[[int], None]]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("allocates", [True, False])
def test_a_file_size_limit_ends_the_keeping_too(
    make_bank: Any, said: list[str], largest_file: Any, monkeypatch: Any, allocates: bool
) -> None:
    if not allocates:
        monkeypatch.delattr(os, "posix_fallocate")
    bank = make_bank()
    largest_file(100_000)
    assert not bank.write(FAT, 0, ALL, FAT_ROWS)
    one_clear_line(said, os.strerror(errno.EFBIG))
    assert sorted(os.listdir(bank.place(FAT, 0))) == [".lock"]
    assert bank.write(THIN, 0, ALL, THIN_ROWS)


@pytest.mark.parametrize("name", ["EDQUOT", "ENOSPC", "EIO"])
def test_a_write_that_fails_in_the_middle_keeps_what_was_whole(
    make_bank: Any, said: list[str], monkeypatch: Any, name: str
) -> None:
    bank, pwrite, calls = make_bank(), os.pwrite, []

    def half(file: int, content: memoryview, begin: int) -> int:
        calls.append(begin)
        if len(calls) > 4:
            raise OSError(getattr(errno, name), "refused")
        return pwrite(file, content[: (len(content) + 1) // 2] if len(calls) > 3 else content, begin)

    assert bank.write(FAT, 0, ALL[:4], {"hint": FAT_ROWS["hint"][:4]})
    monkeypatch.setattr(os, "pwrite", half)
    assert bank.write(FAT, 0, ALL[4:8], {"hint": FAT_ROWS["hint"][4:8]})
    assert not bank.write(FAT, 0, ALL[8:12], {"hint": FAT_ROWS["hint"][8:12]})
    one_clear_line(said, os.strerror(getattr(errno, name)))
    monkeypatch.undo()
    for reader in (bank, make_bank()):
        found = reader.read(FAT, 0, ALL[:8])
        assert torch.equal(found["hint"], FAT_ROWS["hint"][:8])
        # The order was written in half: whole rows are there, and are right.
        assert reader.read(FAT, 0, ALL[8:12]) is None


def test_a_disk_that_fails_when_a_view_is_sealed_leaves_it_incomplete(
    make_bank: Any, said: list[str], monkeypatch: Any
) -> None:
    bank = make_bank()
    fill(bank, seal=False)

    def refuse(file: int) -> None:
        raise OSError(errno.EIO, "refused")

    monkeypatch.setattr(os, "fsync", refuse)
    bank.seal(VIEW)
    monkeypatch.undo()
    assert marker(bank)["complete"] is False
    [message] = said
    assert os.strerror(errno.EIO) in message


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """A function that gives the folder "bank" so that nobody can write there, not even root."""
    folder, mounted = tmp_path / "bank", []

    def sealed() -> Path:
        bind = ["mount", "--bind", str(folder), str(folder)]
        if os.getuid():
            for path in [folder, *folder.rglob("*")]:
                path.chmod(0o555 if path.is_dir() else 0o444)
        elif subprocess.run(bind, capture_output=True).returncode:
            pytest.skip("no right to mount")
        else:
            mounted.append(folder)
            subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        return folder

    yield sealed
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)
    if os.getuid():
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)


def test_a_folder_that_cannot_be_written_is_read(make_bank: Any, said: list[str], read_only: Any) -> None:
    first = make_bank()
    fill(first)
    some = row_values(ALL[:4], 7)
    first.write(ENTRY, 7, ALL[:4], some)
    first.close()
    read_only()
    bank = make_bank()
    assert right(bank)
    assert right(bank, 7, ALL[:4])
    assert not said
    assert bank.write(ENTRY, VIEW, ALL[:4], row_values(ALL[:4], VIEW))
    assert not bank.write(ENTRY, 7, ALL[4:8], some)
    assert not bank.write(ENTRY, 8, ALL[:4], some)
    assert not bank.write(FAT, 0, ALL, FAT_ROWS)
    assert right(bank)
    [message] = said
    assert message.startswith("teacher bank: nothing is kept from here on: cannot write")


def test_a_place_that_is_no_folder_is_named(make_bank: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(KdzooError, match=r"file/bank/settings.json cannot be read: Not a directory"):
        make_bank(tmp_path / "file" / "bank")


def test_without_room_for_its_settings_a_bank_keeps_nothing(
    make_bank: Any, said: list[str], small_disk: Path
) -> None:
    room = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(bytes(room.f_bavail * room.f_frsize))
    bank = make_bank(small_disk / "bank")
    assert not bank.write(THIN, 0, ALL, THIN_ROWS)
    assert bank.read(THIN, 0, ALL) is None
    assert bank.rows(THIN, 0) == 0
    bank.seal(0)
    [message] = said
    assert message.startswith("teacher bank: nothing is kept from here on: cannot write")
    assert "No space" in message

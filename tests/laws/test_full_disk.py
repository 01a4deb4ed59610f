"""Laws 3 and 8: a full disk leaves the last good state and one clear line; given room, it goes on."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tinyzoo import Bench

from kdzoo.results.record import Record

METHODS = "kd,reffakd,noisy,scratch"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(
            f"no right to mount: {mounted.stderr.decode().strip()}; the file size limit is tested instead"
        )
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def sound(work: Path) -> None:
    """Hold that every file that says to be whole is whole."""
    for path in work.rglob("*.safetensors"):
        load_file(path)
    # What was begun and not finished takes no room.
    assert not list(work.rglob("*.part"))
    for path in work.rglob("record.json"):
        Record.from_json(path.read_text(), str(path))


def one_clear_line(log: Path, work: Path) -> None:
    [line] = Path(f"{log}.err").read_text().splitlines()
    assert line.startswith(f"cannot write {work}")
    assert "run the same command again" in line


@pytest.mark.parametrize(
    ("before", "free"),
    [("", 0), ("", 400), ("", 700), ("kd,reffakd", 0), ("kd,reffakd", 16)],
)
def test_full_disk(
    bench: Bench, children: Any, together: dict, small_disk: Path, before: str, free: int
) -> None:
    """Fills the disk but for some kilobytes, so that it ends at another write each time.

    Where something ran before, the artifacts are there, and it is the students that find no room.
    """
    work = small_disk / "work"
    if before:
        bench.run(before, work=str(work))
    kept = bench.contents(str(work))
    command = bench.command(METHODS)
    command[command.index("--work-dir") + 1] = str(work)
    ballast = small_disk / "ballast"
    with open(ballast, "wb") as file:
        room = os.statvfs(small_disk)
        file.write(bytes(room.f_bavail * room.f_frsize - free * 1024))
    log = bench.folder / "full"
    assert children.run(command, log) == 1, Path(f"{log}.err").read_text()
    one_clear_line(log, work)
    sound(work)
    now = bench.contents(str(work))
    assert {name: now[name] for name in kept} == kept
    ballast.unlink()
    assert children.run(command, bench.folder / "room") == 0
    assert bench.contents(str(work)) == {(n, 0): together[n, 0] for n in METHODS.split(",")}


@pytest.mark.parametrize("largest", [2_000, 100_000, 400_000])
def test_file_size_limit(bench: Bench, children: Any, together: dict, largest: int) -> None:
    work = bench.folder / "work"
    log = bench.folder / "full"
    assert children.run(bench.command(METHODS), log, largest_file=largest) == 1
    one_clear_line(log, work)
    sound(work)
    assert children.run(bench.command(METHODS), bench.folder / "room") == 0
    assert bench.contents() == {(n, 0): together[n, 0] for n in METHODS.split(",")}

"""What all tests share: one thread, a tiny benchmark, and children that start fast."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tinyzoo import Bench, registered

HELPERS = Path(__file__).parent / "helpers"


@pytest.fixture(autouse=True, scope="session")
def single_thread() -> Iterator[None]:
    """Small operations gain nothing by threads, and wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def zoo() -> Iterator[None]:
    """Register the tiny data set, its student and the misbehaving methods while a module runs."""
    with registered():
        yield


@pytest.fixture
def bench(zoo: None, tmp_path: Path) -> Bench:
    """The tiny benchmark in a folder of its own."""
    return Bench(tmp_path)


@pytest.fixture
def make_bench(zoo: None, tmp_path: Path) -> Callable[..., Bench]:
    """A function that makes a tiny benchmark with lines added to its config."""

    def make(changes: str, name: str = "changed") -> Bench:
        folder = tmp_path / name
        folder.mkdir()
        return Bench(folder, changes)

    return make


class Children:
    """Starts commands in children of a process that has everything imported; see helpers/children.py."""

    def __init__(self, folder: Path) -> None:
        paths = [str(HELPERS), os.environ.get("PYTHONPATH", "")]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        # Children are forks, and a fork must not touch a GPU that its parent has seen.
        threads["CUDA_VISIBLE_DEVICES"] = ""
        self._server = subprocess.Popen(
            [sys.executable, "-W", "error::RuntimeWarning", str(HELPERS / "children.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
            env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )  # fmt: skip

    def _ask(self, **job: Any) -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return int(json.loads(self._server.stdout.readline()))

    def start(self, arguments: list[str], log: Path, **options: Any) -> int:
        """Start a command; its words go to the log's name with .out and .err."""
        return self._ask(arguments=arguments, log=str(log), **options)

    def wait(self, pid: int) -> int:
        """Give the exit status, negative for a signal."""
        return self._ask(wait=pid)

    def run(self, arguments: list[str], log: Path, **options: Any) -> int:
        """Start a command and wait for it."""
        return self.wait(self.start(arguments, log, **options))

    def close(self) -> None:
        """Let the process end."""
        self._server.communicate(timeout=60)


@pytest.fixture(scope="session")
def children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Children]:
    """One such process for all tests."""
    server = Children(tmp_path_factory.mktemp("children"))
    yield server
    server.close()

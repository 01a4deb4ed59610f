"""A process that has everything imported and forks children that run a command: each starts in milliseconds.

It is a process of its own because one that has used threads or a GPU must not fork. It reads jobs as lines of
JSON: {"arguments": a command line, "log": file for its steps, ...} starts a child and answers its pid;
{"wait": pid} answers its exit status, negative for a signal. What a child says is in the log's name with .out
and .err.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import tinyzoo

import kdzoo.api
from kdzoo import cli
from kdzoo.training.member import Member
from kdzoo.training.session import Session


class Events:
    """Counts what a run does to disk and students, logs every step, and dies at an event of choice.

    Args:
        log: file to which each step adds a line: member, epoch, step.
        kill_at: number of the event at which to die by SIGKILL; None never.
    """

    def __init__(self, log: Path, kill_at: int | None) -> None:
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._kill_at = kill_at
        self.count = 0

    def happen(self) -> None:
        self.count += 1
        if self.count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Any) -> Any:
        @functools.wraps(function)
        def counted(*arguments: Any, **options: Any) -> Any:
            self.happen()
            result = function(*arguments, **options)
            self.happen()
            return result

        return counted

    def step(self, real: Any) -> Any:
        def step(member: Member, batch: Any, guide: Any, progress: Any) -> None:
            self.happen()
            os.write(self._log, f"{member.name} {member._seed} {progress.epoch} {progress.step}\n".encode())
            real(member, batch, guide, progress)
            self.happen()

        return step


def child(
    arguments: list[str], log: str, kill_at: int | None = None, checkpoint_seconds: float | None = None,
    largest_file: int | None = None, environment: dict[str, str] | None = None,
) -> int:  # fmt: skip
    """Run a command; the number of its events is kept beside the log."""
    os.environ.update(environment or {})
    events = Events(Path(log), kill_at)
    # Every moment at which a write can be cut off: before and after the bytes are on disk, and the rename.
    os.fsync, os.replace, os.unlink = (events.around(f) for f in (os.fsync, os.replace, os.unlink))
    Member.step = events.step(Member.step)
    if checkpoint_seconds is not None:
        kdzoo.api.Session = functools.partial(Session, checkpoint_seconds=checkpoint_seconds)
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
    status = cli.main(arguments)
    if largest_file is None:
        Path(log + ".events").write_text(str(events.count))
    return status


# What a run imports late is imported here, once, rather than by every child: more than a second each time.
LATE = (
    "fvcore.nn",
    "kdzoo.results.leaderboard",
    "matplotlib.backends.backend_agg",
    "numpy.random",
    "statistics",
    "torch._dynamo",
)


def serve() -> None:
    """Answer jobs until there are no more."""
    for module in LATE:
        importlib.import_module(module)
    with tinyzoo.registered():
        for line in sys.stdin:
            job = json.loads(line)
            if "wait" in job:
                answer = os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1])
            else:
                answer = os.fork()
                if answer == 0:
                    _run(job)
            print(json.dumps(answer), flush=True)


def _run(job: dict[str, Any]) -> None:
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{job['log']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    status = 99
    try:
        status = child(**job)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()

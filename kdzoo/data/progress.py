"""Progress of what takes long while data is made ready: silent unless a caller says who shows it.

A data set is a function of a folder and options, with no place for a display. So the display is a context
variable: the command line sets it around its whole work, `with shown_by(Terminal()): ...`, and nobody in
between passes it on.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

PATIENCE = 2.0  # seconds after which work is worth a line
EVERY = 30.0  # seconds between two lines where there is no terminal

T = TypeVar("T", bound=Sized)


class Display:
    """Shows nothing; the base of those that do."""

    def message(self, text: str) -> None:
        """Say one line."""

    def begin(self, title: str, total: int) -> None:
        """Begin a work of so many images."""

    def advance(self, count: int) -> None:
        """Count images that are done."""

    def end(self) -> None:
        """End the work, whether it succeeded or not."""


_display: ContextVar[Display] = ContextVar("kdzoo_data_display", default=Display())  # noqa: B039


@contextmanager
def shown_by(display: Display) -> Iterator[None]:
    """Let a display show what is loaded inside the block.

    Args:
        display: for example a `Terminal`.
    """
    token = _display.set(display)
    try:
        yield
    finally:
        _display.reset(token)


def message(text: str) -> None:
    """Say one line to whoever watches."""
    _display.get().message(text)


def counted(title: str, total: int, pieces: Iterable[T]) -> Iterator[T]:
    """Pass pieces on and show how far they are.

    Args:
        title: what is done.
        total: images in all pieces.
        pieces: each as long as it has images.
    """
    display = _display.get()
    display.begin(title, total)
    try:
        for piece in pieces:
            yield piece
            display.advance(len(piece))
    finally:
        display.end()


class Terminal(Display):
    """A bar on a terminal's standard error, lines elsewhere; nothing for what is done within `PATIENCE`.

    Args:
        console: rich's; None takes standard error.
    """

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console

        self._console = Console(stderr=True) if console is None else console
        self._bar: Any = None

    def message(self, text: str) -> None:
        """Print one line, above the bar if there is one."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def begin(self, title: str, total: int) -> None:
        """Note the time; nothing is shown yet."""
        self._title, self._total, self._done = title, total, 0
        self._next = time.monotonic() + PATIENCE

    def advance(self, count: int) -> None:
        """Move the bar, or print a line if it is time for one."""
        self._done += count
        if self._bar is None and time.monotonic() < self._next:
            return
        if not self._console.is_terminal:
            self._next = time.monotonic() + EVERY
            self.message(f"{self._title}: {self._done:,} of {self._total:,} images")
            return
        if self._bar is None:
            self._open()
        self._bar.update(self._task, completed=self._done)

    def end(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _open(self) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
            TimeRemainingColumn(), console=self._console, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task(self._title, total=self._total)
        self._bar.start()

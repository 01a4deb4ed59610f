"""Progress for people: a live line on a terminal, plain lines elsewhere, nothing where it is not wanted."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kdzoo.results.words import counted

if TYPE_CHECKING:
    from kdzoo.training.checkpoint import Position
    from kdzoo.training.member import Member


class Reporter:
    """Shows nothing; the base of those that do."""

    def message(self, text: str) -> None:
        """Say one line."""

    def start(self, title: str, names: Sequence[str], epochs: int, steps: int, start: Position) -> None:
        """Begin a training.

        Args:
            title: what is trained.
            names: the members.
            epochs: how many there will be.
            steps: of an epoch.
            start: where it goes on from.
        """

    def step(self, position: Position) -> None:
        """Count a step."""

    def epoch(self, epoch: int, members: Sequence[Member], seconds: float) -> None:
        """Show a finished epoch.

        Args:
            epoch: counts from 0.
            members: with their metrics.
            seconds: that the epoch took.
        """

    def finish(self) -> None:
        """End a training."""


def duration(seconds: float) -> str:
    """Write seconds as 0:07, 12:34 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _scores(members: Sequence[Member]) -> str:
    texts = []
    for member in members:
        if member.status != "training":
            texts.append(f"{member.name} {member.status}")
            continue
        test = member.epochs[-1].get("test", {})
        texts.append(
            f"{member.name} {test['top1']:.2f}"
            if "top1" in test
            else f"{member.name} loss {test['loss']:.4f}"
        )
    return "  ".join(texts)


class PlainReporter(Reporter):
    """One line at the start, one for each of about ten parts of a training, at least one a minute."""

    def __init__(self) -> None:
        self._left = Remaining()

    def message(self, text: str) -> None:
        """Print one line."""
        print(text, flush=True)

    def start(self, title: str, names: Sequence[str], epochs: int, steps: int, start: Position) -> None:
        """Print what is trained, and from where."""
        self._epochs, self._every, self._shown = epochs, max(1, epochs // 10), time.monotonic()
        self._left.start(epochs, steps, start)
        if start.epoch < epochs:
            resumed = f", from epoch {start.epoch + 1}, step {start.step + 1}" if any(start) else ""
            self.message(
                f"{title}: {', '.join(names)} for {counted(epochs, 'epochs')} of {counted(steps, 'steps')}"
                f"{resumed}"
            )

    def step(self, position: Position) -> None:
        """Print a line inside an epoch that takes long."""
        self._left.step(position)
        if time.monotonic() - self._shown > 60:
            self._shown = time.monotonic()
            self.message(
                f"  epoch {position.epoch + 1}/{self._epochs}, step {position.step}, {self._left} left"
            )

    def epoch(self, epoch: int, members: Sequence[Member], seconds: float) -> None:
        """Print the members' test accuracy after some of the epochs."""
        last = epoch + 1 == self._epochs
        if last or (epoch + 1) % self._every == 0 or time.monotonic() - self._shown > 60:
            self._shown = time.monotonic()
            left = "" if last else f", {self._left} left"
            self.message(
                f"  epoch {epoch + 1}/{self._epochs}  {_scores(members)}  ({seconds:.1f} s an epoch{left})"
            )


class RichReporter(Reporter):
    """A bar with the time left, and the accuracies after every epoch."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console()
        self._left = Remaining()
        self._bar: Any = None

    def message(self, text: str) -> None:
        """Print one line above the bar."""
        self._console.print(text, highlight=False, markup=False)

    def start(self, title: str, names: Sequence[str], epochs: int, steps: int, start: Position) -> None:
        """Open the bar."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._left.start(epochs, steps, start)
        self._steps, self._epochs = steps, epochs
        self._bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[left]} left"), TextColumn("{task.fields[scores]}", markup=False),
            console=self._console, transient=True, refresh_per_second=4,
        )  # fmt: skip
        self._task = self._bar.add_task(title, total=epochs * steps, left="?", scores="")
        self._bar.start()
        self._bar.update(self._task, completed=start.epoch * steps + start.step)

    def step(self, position: Position) -> None:
        """Move the bar."""
        self._left.step(position)
        done = position.epoch * self._steps + position.step
        self._bar.update(self._task, completed=done, left=str(self._left))

    def epoch(self, epoch: int, members: Sequence[Member], seconds: float) -> None:
        """Show the accuracies beside the bar, and keep the last ones as a line."""
        scores = _scores(members)
        self._bar.update(self._task, scores=scores)
        if epoch + 1 == self._epochs:
            self.message(f"{self._bar.tasks[0].description}: epoch {epoch + 1}/{self._epochs}  {scores}")

    def finish(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Remaining:
    """Estimates the time left from the steps of this start; str() is for people."""

    def start(self, epochs: int, steps: int, start: Position) -> None:
        """Begin to count."""
        self._steps, self._total = steps, epochs * steps
        self._first = self._done = start.epoch * steps + start.step
        self._began = time.monotonic()

    def step(self, position: Position) -> None:
        """Count a step."""
        self._done = position.epoch * self._steps + position.step

    def __str__(self) -> str:
        done = self._done - self._first
        return duration((time.monotonic() - self._began) / done * (self._total - self._done)) if done else "?"


def choose_reporter() -> Reporter:
    """Give a live display on a terminal and plain lines elsewhere."""
    return RichReporter() if sys.stdout.isatty() else PlainReporter()

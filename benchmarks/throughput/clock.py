"""Taking contestants' steps in turns, one after the other in each round, and timing them."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .surroundings import Surroundings

# Everybody means seconds of the wall. Those of the process's own work hold where others use the cores at the
# same time; with one thread both are the same on an idle machine.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


class Marks:
    """Where in a step time is spent: called with the name of the part that begins.

    On CUDA they are events, so that nothing waits inside of a step.

    Args:
        device: where the work is done.
        clock: of CLOCKS.
    """

    def __init__(self, device: torch.device, clock: str = "wall") -> None:
        self._cuda, self._now = device.type == "cuda", CLOCKS[clock]
        self._begun: list[tuple[str, Any]] = []

    def __call__(self, part: str) -> None:
        moment: Any = self._now()
        if self._cuda:
            moment = torch.cuda.Event(enable_timing=True)
            moment.record()
        self._begun.append((part, moment))

    def seconds(self) -> dict[str, float]:
        """Give the seconds of each part, once the device has finished; the last mark only ends one."""
        found: dict[str, float] = {}
        for (part, begun), (_, ended) in zip(self._begun, self._begun[1:], strict=False):
            took = begun.elapsed_time(ended) / 1000 if self._cuda else ended - begun
            found[part] = found.get(part, 0.0) + took
        return found


OWN = Surroundings()
SHORT, MOST = 0.5, 20  # seconds that a sample's steps fill, and how many they are at most


@dataclass
class Contestant:
    """Something whose steps are timed.

    Attributes:
        who: whose loop it is, such as "limit" or "torchdistill, careful".
        what: its methods: how many of the fixed order, or the name of one.
        precision: "float32" or "bf16".
        step: takes one step; may mark the parts of it, or give seconds of its own parts.
        surroundings: what its steps are taken in.
        networks: what must be finite at the end.
        seconds: of every round.
        parts: seconds of every round, by part.
        steps: of a sample at least, as the warm-up tells.
        faults: page faults of every round; on a CPU they tell what the allocator costs.
    """

    who: str
    what: str
    precision: str
    step: Callable[[Marks], dict[str, float] | None]
    surroundings: Surroundings = OWN
    networks: Sequence[torch.nn.Module] = ()
    seconds: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    faults: list[int] = field(default_factory=list)
    steps: int = 1

    def take(self, device: torch.device, steps: int, settle: float, clock: str = "wall") -> None:
        """Time some steps in a row, and keep one sample of them for this round.

        On a CPU it is the step of the median time, on a GPU the mean, since nothing waits between its steps.
        Quick steps are taken more often: as many as fill SHORT seconds.

        Args:
            device: where the work is done; it is waited for before and after, and not between.
            steps: how many at least.
            settle: seconds to wait first, so that whoever was working ahead for another has finished.
            clock: of CLOCKS.
        """
        steps = max(steps, self.steps)
        self.surroundings.enter(device)
        time.sleep(settle)
        if device.type == "cuda":
            found = [self._timed(device, clock, steps)]
        else:
            found = [self._timed(device, clock, 1) for _ in range(steps)]
        seconds, faults, parts = sorted(found, key=lambda one: one[0])[len(found) // 2]
        self.seconds.append(seconds)
        self.faults.append(faults)
        for part, took in parts.items():
            self.parts.setdefault(part, []).append(took)

    def _timed(self, device: torch.device, clock: str, steps: int) -> tuple[float, int, dict[str, float]]:
        """Take steps in a row; give the seconds, page faults and parts of one."""
        marks, now = Marks(device, clock), CLOCKS[clock]
        _wait(device)
        faults, began = _page_faults(), now()
        told = [self.step(marks) or {} for _ in range(steps)]
        marks("end")
        _wait(device)
        seconds, faults = now() - began, _page_faults() - faults
        # What kdzoo tells is of the wall, and says nothing of a GPU that works behind it.
        own = told if device.type == "cpu" and clock == "wall" else []
        parts: dict[str, float] = {}
        for found in (marks.seconds(), *own):
            for part, took in found.items():
                parts[part] = parts.get(part, 0.0) + took / steps
        return seconds / steps, faults // steps, parts

    def sample(self) -> dict[str, Any]:
        """Give what was timed, for the record."""
        return {
            "who": self.who,
            "what": self.what,
            "precision": self.precision,
            "allocator": "raised thresholds" if self.surroundings.raised else "as it comes",
            "flags": "kdzoo's" if self.surroundings.kdzoo else "torch's",
            "seconds": [round(s, 6) for s in self.seconds],
            "parts": {name: [round(s, 6) for s in seconds] for name, seconds in self.parts.items()},
            "steps of a sample": self.steps,
            "page faults": self.faults,
        }

    def forget(self) -> None:
        """Drop what was timed so far, but for how many steps a sample takes."""
        self.steps = min(MOST, math.ceil(SHORT / self.seconds[-1]))
        self.seconds, self.parts, self.faults = [], {}, []

    def check(self) -> None:
        """Refuse to tell of a training that left the finite numbers: their arithmetic takes another time."""
        for network in self.networks:
            if not all(bool(p.isfinite().all()) for p in network.parameters()):
                raise SystemExit(
                    f"{self.who}, {self.what}: weights are not finite any more. Choose a smaller --lr."
                )


def take_rounds(
    contestants: Sequence[Contestant], rounds: int, device: torch.device, *, steps: int, settle: float,
    clock: str, say: Callable[[str], None],
) -> Iterator[int]:  # fmt: skip
    """Let every contestant take its steps once in each round, after a round that is not kept.

    Each round begins with another one, so that nobody always comes after the same.

    Args:
        contestants: those who take part.
        rounds: kept ones.
        device: where the work is done.
        steps: of a sample.
        settle: seconds before each sample.
        clock: of CLOCKS.
        say: is told how far it is.

    Yields:
        How many rounds are kept so far, after each.

    Raises:
        SystemExit: weights are not finite any more.
    """
    stride = max(1, len(contestants) // (rounds + 1))
    for number in range(rounds + 1):
        began, first = time.perf_counter(), number * stride % len(contestants)
        for contestant in [*contestants[first:], *contestants[:first]]:
            contestant.take(device, steps, settle, clock)
            if number == 0:
                contestant.forget()
        say(f"round {number} of {rounds}: {time.perf_counter() - began:.0f} s{'' if number else ', warm-up'}")
        OWN.enter(device)
        for contestant in contestants:
            contestant.check()
        if number:
            yield number


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _page_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

"""kdzoo's own steps: cohorts as a run trains them, with images, views, labels and bookkeeping."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kdzoo.training.cohort import Cohort
from kdzoo.training.graphs import chosen_graphs
from kdzoo.training.reporter import Reporter
from kdzoo.training.session import Session

from .clock import Marks
from .pair import Pair


@contextmanager
def cohort_of(
    pair: Pair, methods: Sequence[str], precision: str, bank: Path | None = None,
    reporter: Reporter | None = None, graphs: str = "auto",
) -> Iterator[Cohort]:  # fmt: skip
    """Give the cohort of some methods at its start, artifacts ready.

    Args:
        pair: networks and data.
        methods: in the grammar.
        precision: "float32" or "auto".
        bank: folder of the teacher bank; None for no bank.
        reporter: is told what kdzoo says; None for nobody.
        graphs: "auto" or "off": whether a GPU repeats steps by itself.
    """
    plan = pair.plan(methods, precision, bank)
    graphed, _ = chosen_graphs(graphs, pair.device, plan.compiled)
    session = Session(plan, reporter or Reporter(), "python -m benchmarks.throughput", graphs=graphed)
    with session.cohort_of(0) as cohort:
        yield cohort


class Steps:
    """A cohort's steps, one after the other, epoch after epoch.

    Args:
        cohort: at its start.

    Attributes:
        cohort: the same.
    """

    def __init__(self, cohort: Cohort) -> None:
        self.cohort = cohort
        self._taken = 0

    def __call__(self, marks: Marks | None = None) -> dict[str, float]:
        """Take the next step, whole.

        Returns:
            Seconds of what members share and of each member, by kdzoo's own clocks.

        Raises:
            BaseException: whatever set a member aside, since the others' step is not the whole one.
        """
        before = self._clocks()
        self.cohort.train_step(divmod(self._taken, self.cohort.images.steps))
        self._taken += 1
        for member in self.cohort.members:
            if member.fault is not None:
                raise member.fault
        return {name: now - before[name] for name, now in self._clocks().items()}

    def _clocks(self) -> dict[str, float]:
        return {"shared": self.cohort.seconds, **{m.name: m.seconds for m in self.cohort.members}}


def fill_bank(pair: Pair, methods: Sequence[str], precision: str, bank: Path) -> None:
    """Take one epoch's steps, after which the bank has every view of it.

    Args:
        pair: networks and data.
        methods: those that read a teacher.
        precision: "float32" or "auto".
        bank: folder of the bank.
    """
    with cohort_of(pair, methods, precision, bank, _Aloud()) as cohort:
        steps = Steps(cohort)
        for _ in range(cohort.images.steps):
            steps()


class _Aloud(Reporter):
    """Says what is said, such as which digests a bank cannot keep."""

    def message(self, text: str) -> None:
        """Print a line."""
        print(f"  {text}", flush=True)


def bytes_of_bank(pair: Pair, bank: Path) -> dict[str, float]:
    """Give what a filled bank keeps of one image, in bytes, by digest.

    Args:
        pair: networks and data.
        bank: folder of the bank.
    """
    found: dict[str, float] = {}
    for path in sorted(bank.glob("*/*/entry.json")):
        size = sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
        found[json.loads(path.read_text())["name"]] = size / len(pair.data.train)
    return found

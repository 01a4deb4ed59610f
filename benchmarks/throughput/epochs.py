"""Whole epochs: kdzoo with a warm teacher bank in turns with the bare students, evaluation included."""

from __future__ import annotations

import shutil
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

import kdzoo
from kdzoo.checks import KdzooError
from kdzoo.results.words import counted
from kdzoo.training.plan import Plan
from kdzoo.training.planned_bank import bank_of
from kdzoo.training.reporter import Reporter
from kdzoo.training.runtime import runtime
from kdzoo.training.session import Session

from .limit import Limit
from .measure import working, write
from .numbers import Record, ratio
from .ours import Steps
from .pair import METHODS, Pair
from .surroundings import Surroundings, machine

COMMAND = "python -m benchmarks.throughput epochs"
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}


def measure(options: Namespace) -> Path:
    """Measure whole epochs of a pair; a bank that lacks rows is filled first.

    Args:
        options: of the command.

    Returns:
        The record.
    """
    with ExitStack() as held:
        pair, work = held.enter_context(working(options))
        device = pair.device
        held.enter_context(runtime(device, options.threads))
        Surroundings().enter(device)
        plan = _plan(pair, options, work)
        epochs = _in_turns(pair, plan, options)
    record: Record = {
        "schema": 1,
        "pair": {"name": pair.name, "networks": list(pair.networks), "data": pair.told},
        "methods": list(METHODS),
        "batch": pair.batch_size,
        "views": options.views,
        "views in the bank": min(options.epochs, options.views),
        "bytes of the bank": _size(_bank(plan)),
        "lr": pair.lr,
        "machine": machine(device),
        **epochs,
    }
    record["kdzoo over bare"] = {
        clock: ratio(record[f"kdzoo, {clock}"], record[f"bare, {clock}"]) for clock in CLOCKS
    }
    return write(record, options.output, "epochs-")


def table(record: Record, form: str = "simple") -> str:
    """Write what a record of epochs says, as text or Markdown.

    Args:
        record: of a measurement.
        form: a format of tabulate, such as "simple" or "github".
    """
    pair, here = record["pair"], record["machine"]
    head = (
        f"{pair['name']}: {' -> '.join(pair['networks'])}, {pair['data']}, batch {record['batch']}, "
        f"{len(record['methods'])} methods, {record['views in the bank']} of {record['views']} views in the "
        f"bank, {record['bytes of the bank'] / 1e9:.3g} GB; {here['device_name']}, "
        f"{counted(here['threads'], 'threads')}, torch {here['versions']['torch']}"
    )
    rows = [
        [clock, *(" ".join(f"{s:.1f}" for s in record[f"{who}, {clock}"]) for who in ("kdzoo", "bare")),
         f"{found['ratio']:.3f}"]
        for clock, found in record["kdzoo over bare"].items()
    ]  # fmt: skip
    titles = ["clock", "kdzoo, seconds of each epoch", "bare students, their losses, evaluation", "ratio"]
    return f"{head}\n\n" + tabulate(rows, titles, tablefmt=form, disable_numparse=True)


def _plan(pair: Pair, options: Namespace, work: Path) -> Plan:
    # Records of an earlier measurement would leave nothing to train.
    shutil.rmtree(work / "epochs" / "runs", ignore_errors=True)
    return kdzoo.plan(
        benchmark=pair.benchmark, data=pair.data, methods=list(METHODS), epochs=options.epochs, cae_epochs=1,
        views=options.views, work_dir=work / "epochs", device=str(pair.device), bank_limit=options.bank_limit,
        teacher_bank=options.bank or work / "bank",
        teacher_checkpoint=options.teacher_checkpoint or pair.teacher_file,
        cfg_options={"recipe.optimizer.lr": pair.lr},
    )  # fmt: skip


def _in_turns(pair: Pair, plan: Plan, options: Namespace) -> Record:
    session = Session(plan, _Aloud(), COMMAND)
    with session.cohort_of(0) as cohort:
        limit = Limit(pair, cohort, (plan.precision_of(plan.benchmark.section("teacher")), plan.precision))
        limit.ask()
        steps, take = cohort.images.steps, Steps(cohort)
        for _ in range(0 if options.filled else options.epochs * steps):
            take()
    shape = len(plan.data.test), plan.data.channels, limit.size, limit.size
    judged = torch.randn(shape, device=plan.device)
    turns = _Turns(lambda: limit.epoch(len(plan.data.train), judged), plan.device)
    session = Session(plan, turns, COMMAND)
    session.run()
    for fault in session.failed.values():
        raise fault
    records = [record for member in plan.members if (record := member.record()) is not None]
    passes = max(record.timing["teacher_passes"] for record in records)
    # Those that are compared with the bank are not counted.
    if passes:
        raise KdzooError(
            f"epochs: the teacher ran {passes} times, so the bank is not whole: its limit is too small, or "
            "it was not filled. See --bank-limit, and leave --filled out."
        )
    return {"steps": steps, "evaluated": len(judged), "teacher passes": passes, **turns.seconds}


def _bank(plan: Plan) -> Path:
    teacher = next(artifact for artifact in plan.artifacts.values() if artifact.name == "teacher")
    return bank_of(plan, teacher, plan.seeds[0])[0]


def _size(bank: Path) -> int:
    return sum(file.stat().st_size for file in bank.rglob("*") if file.is_file())


class _Aloud(Reporter):
    """Says what is said."""

    def message(self, text: str) -> None:
        """Print a line."""
        print(f"  {text}", flush=True)


class _Turns(_Aloud):
    """Times each epoch of a run, and lets the bare students take one after it.

    Args:
        bare: takes an epoch of them.
        device: where the work is done.

    Attributes:
        seconds: of every epoch, by whose it is and clock.
    """

    def __init__(self, bare: Callable[[], None], device: torch.device) -> None:
        self._bare, self._device = bare, device
        self.seconds: dict[str, list[float]] = {f"{w}, {c}": [] for w in ("kdzoo", "bare") for c in CLOCKS}
        self._began = self._now()

    def start(self, *args: Any, **kwargs: Any) -> None:
        """Begin to count."""
        self._began = self._now()

    def epoch(self, epoch: int, members: Sequence[Any], seconds: float) -> None:
        """Note the epoch, training, evaluation and checkpoints; then it is the others' turn.

        Args:
            epoch: counts from 0.
            members: all of them, none given up.
            seconds: as the run itself says.
        """
        if any(member.status != "training" for member in members):
            raise SystemExit("epochs: a member left the training. Choose a smaller --lr.")
        self._note("kdzoo")
        self._bare()
        self._note("bare")
        told = ", ".join(f"{name} {seconds[-1]:.1f} s" for name, seconds in self.seconds.items())
        print(f"  epoch {epoch + 1}: {told}", flush=True)
        self._began = self._now()

    def _note(self, who: str) -> None:
        ended = self._now()
        for clock in CLOCKS:
            self.seconds[f"{who}, {clock}"].append(round(ended[clock] - self._began[clock], 3))
        self._began = ended

    def _now(self) -> dict[str, float]:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return {name: clock() for name, clock in CLOCKS.items()}

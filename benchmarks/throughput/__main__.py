"""Measure what a step of many methods costs: the limit, kdzoo, torchdistill and a plain loop, in turns.

python -m benchmarks.throughput measure --benchmark fashion_mnist
python -m benchmarks.throughput epochs --benchmark fashion_mnist --bank-limit 80
python -m benchmarks.throughput show benchmarks/throughput/results/*.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from kdzoo.checks import KdzooError, UsageError

GROUPS = ("limit", "apart", "kdzoo", "bank", "alone", "torchdistill", "plain", "memory", "losses")
RESULTS = Path(__file__).parent / "results"


def _list(text: str) -> list[str]:
    return text.split(",")


def _groups(text: str) -> list[str]:
    wrong = sorted(set(_list(text)) - set(GROUPS))
    if wrong:
        raise argparse.ArgumentTypeError(f"must be of {', '.join(GROUPS)}, got {', '.join(wrong)}")
    return _list(text)


def _counts(text: str) -> list[int]:
    counts = sorted({int(n) for n in _list(text)})
    if not 1 <= counts[0] <= counts[-1] <= 9:
        raise argparse.ArgumentTypeError(f"must be numbers of methods from 1 to 9, got {text}")
    return counts


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    whole = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    whole.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = whole.add_subparsers(dest="command", required=True)
    measure = commands.add_parser("measure", help="measure a pair, and write a record, a table and a plot")
    memory = commands.add_parser("memory", help="print the peak memory of one cohort (measure calls it)")
    epochs = commands.add_parser(
        "epochs", help="time whole epochs with a warm teacher bank, in turns with the bare students"
    )
    for one in (measure, memory, epochs):
        one.add_argument("--benchmark", default="fashion_mnist", help="a benchmark of kdzoo, or a config")
        one.add_argument("--data-root", type=Path)
        one.add_argument("--device")
        one.add_argument("--threads", type=int)
        one.add_argument("--lr", type=float, default=1e-5, help="of everyone, so that nobody diverges")
        one.add_argument(
            "--work-dir", type=Path, help="where artifacts are kept (default: removed at the end)"
        )
    for one in (measure, memory):
        one.add_argument(
            "--epoch-steps", type=int, default=8, help="steps of an epoch of real images; on a GPU take 100"
        )
    memory.add_argument("--count", type=int, required=True)
    epochs.add_argument("--epochs", type=_positive, default=3)
    epochs.add_argument("--views", type=_positive, default=10, help="after which the augmentation repeats")
    epochs.add_argument("--bank", type=Path, help="folder of teacher banks (default: in the work directory)")
    epochs.add_argument("--bank-limit", type=float, default=4.0, help="of a bank, in GB")
    epochs.add_argument("--filled", action="store_true", help="the bank is whole: do not fill it first")
    epochs.add_argument("--teacher-checkpoint", type=Path, help="a teacher (default: of random weights)")
    epochs.set_defaults(epoch_steps=None)
    measure.add_argument("--rounds", type=_positive, default=7)
    measure.add_argument("--counts", type=_counts, default=[1, 3, 6, 9], help="numbers of methods")
    measure.add_argument("--steps", type=int, help="in a row for a sample, at least (default: CPU 1, GPU 10)")
    measure.add_argument("--settle", type=float, default=0.1, help="seconds before each sample")
    measure.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: seconds of the process's own work, where others use the cores; with --threads 1",
    )
    measure.add_argument("--precisions", type=_list, default=["float32", "auto"])
    measure.add_argument("--contestants", type=_groups, default=list(GROUPS), help=", ".join(GROUPS))
    for one in (measure, epochs):
        one.add_argument("--output", type=Path, default=RESULTS, help="folder of records and plots")
    show = commands.add_parser("show", help="write tables and plots of records, from records alone")
    show.add_argument("records", type=Path, nargs="+")
    show.add_argument("--output", type=Path, help="folder of the plots (default: beside each record)")
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: of the command line; None takes the process's.
    """
    options = parser().parse_args(arguments)
    try:
        if options.command == "show":
            _show(options.records, options.output)
        elif options.command == "epochs":
            from .epochs import measure as measure_epochs

            _show([measure_epochs(options)], None, form="simple")
        elif options.command == "memory":
            from .measure import working
            from .memory import PRECISION, measure_one

            with working(options) as (pair, _):
                print(json.dumps({"peak": measure_one(pair, options.count, PRECISION)}))
        else:
            from .measure import measure

            if options.clock == "cpu" and options.threads != 1:
                # Threads that wait for each other spin, which would count as work.
                raise UsageError("--clock cpu: it needs --threads 1.")
            if set(options.contestants) <= {"memory", "losses"}:
                raise UsageError("--contestants: it must have one that takes steps, such as limit.")
            _show([measure(options)], None, form="simple")
    except KdzooError as fault:
        print(fault, file=sys.stderr)
        return 2
    return 0


def _show(records: Sequence[Path], folder: Path | None, form: str = "github") -> None:
    from . import epochs
    from .show import plot, table

    for path in records:
        record = json.loads(path.read_text())
        if "kdzoo over bare" in record:
            print(epochs.table(record, form) + "\n")
            continue
        print(table(record, form) + "\n")
        if len(record["counts"]) < 2:
            # A line through one point would show nothing.
            continue
        to = (folder or path.parent) / f"{path.stem}.png"
        to.parent.mkdir(parents=True, exist_ok=True)
        plot(record, to)
        print(f"plot: {to}\n" if form == "simple" else f"![{path.stem}]({to.name})\n")


if __name__ == "__main__":
    sys.exit(main())

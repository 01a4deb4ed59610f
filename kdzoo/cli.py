"""The command line: `kdzoo bench`, `kdzoo leaderboard`, `kdzoo list`. Nothing heavy is imported before it is
needed."""

from __future__ import annotations

import argparse
import difflib
import io
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from kdzoo.checks import KdzooError, UsageError

if TYPE_CHECKING:
    from kdzoo.training.plan import Plan

OK, FAULT, MISTAKE, INTERRUPTED = 0, 1, 2, 130

LISTS = ("methods", "sources", "benchmarks", "models", "datasets")


class _Parser(argparse.ArgumentParser):
    """argparse with one-line answers and near-name hints."""

    def error(self, message: str) -> NoReturn:
        """Answer a mistake in one line."""
        words = message.split(": ", 1)[-1].split() if message.startswith("unrecognized") else []
        # What a command does not know is told by the parser above it.
        below = [
            p for a in self._actions if isinstance(a, argparse._SubParsersAction) for p in a.choices.values()
        ]
        known = [
            option
            for parser in (self, *below)
            for action in parser._actions
            for option in action.option_strings
        ]
        close = [m for w in words for m in difflib.get_close_matches(w.split("=")[0], known, n=1)]
        hint = f" Did you mean {' or '.join(close)}?" if close else f" See {self.prog} --help."
        print(f"{self.prog}: {message}.{hint}", file=sys.stderr)
        raise SystemExit(MISTAKE)


def _parser() -> argparse.ArgumentParser:
    from kdzoo import __version__

    parser = _Parser(
        prog="kdzoo", description="The benchmark zoo for knowledge distillation.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"kdzoo {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{bench,leaderboard,list}")
    _add_bench(
        commands.add_parser(
            "bench", help="train methods side by side and show a leaderboard", allow_abbrev=False
        )
    )

    board = commands.add_parser("leaderboard", help="make a leaderboard from records", allow_abbrev=False)
    board.add_argument("records", nargs="*", type=Path, default=[Path("work_dirs/runs")],
                       help="folders or files of records (default: work_dirs/runs)")  # fmt: skip
    board.add_argument(
        "--output",
        type=Path,
        default=Path("leaderboard.md"),
        help="Markdown file to write (default: leaderboard.md)",
    )
    board.add_argument("--csv", type=Path, help="also write one line a record to this CSV file")
    board.add_argument("--title", default="Leaderboard", help="heading of the page")

    lister = commands.add_parser("list", help="show what there is", allow_abbrev=False)
    lister.add_argument("what", choices=LISTS)
    lister.add_argument("-v", "--verbose", action="store_true", help="with papers, needs and options")
    return parser


def _add_bench(bench: argparse.ArgumentParser) -> None:
    add = bench.add_argument
    add(
        "--methods",
        action="append",
        metavar="LIST",
        help="distiller[:name=value]*[+source[:name=value]*], comma-separated; table8, all and wildcards "
        "expand (default: scratch,dkd,reffakd)",
    )
    add(
        "--benchmark",
        default="digits",
        metavar="NAME",
        help="a name of `kdzoo list benchmarks`, or a config file (default: digits)",
    )
    add(
        "--seeds",
        default="1",
        metavar="N|LIST",
        help="how many seeds (3 means 0,1,2), or which, as in 0,5 (default: 1)",
    )
    add(
        "--epochs",
        type=int,
        metavar="N",
        help="epochs of the students; milestones scale (default: the benchmark's)",
    )
    add("--teacher-epochs", type=int, metavar="N", help="epochs of the teacher")
    add("--cae-epochs", type=int, metavar="N", help="epochs of ReffAKD's autoencoder")
    add(
        "--val-fraction",
        type=float,
        default=0.0,
        metavar="F",
        help="share of training images split off for validation (default: 0)",
    )
    add(
        "--data-root", type=Path, metavar="DIR", help="where the data's files are (default: the usual places)"
    )
    add(
        "--work-dir",
        type=Path,
        default=Path("work_dirs"),
        metavar="DIR",
        help="artifacts, checkpoints, records (default: work_dirs)",
    )
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    add("--precision", default="float32", metavar="NAME", help="float32 or bf16 (default: float32)")
    add("--threads", type=int, metavar="N", help="CPU threads (default: torch's choice)")
    add(
        "--teacher-checkpoint",
        type=Path,
        metavar="FILE",
        help="a teacher of your own: .safetensors, or .pt with tensors alone",
    )
    add(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="config entries, as in recipe.batch_size=128",
    )
    add(
        "--dry-run",
        action="store_true",
        help="show what would be trained, reused and skipped, and how long it takes",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: behind the program's name; None takes the process's own.

    Returns:
        0, or 1 for a fault, 2 for a mistake of the user, 130 for Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a sign such as ± must not end a run.
        sys.stdout.reconfigure(errors="replace")
    try:
        options = _parser().parse_args(given)
        commands = {"bench": _bench, "leaderboard": _leaderboard, "list": _list}
        return commands[options.command](options, given)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else MISTAKE
    except UsageError as error:
        print(error, file=sys.stderr)
        return MISTAKE
    except KdzooError as error:
        print(error, file=sys.stderr)
        return FAULT
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away, as `| head` does.
        sys.stderr.close()
        return FAULT


def _bench(options: argparse.Namespace, given: list[str]) -> int:
    from kdzoo.api import DEFAULT_METHODS, execute, plan
    from kdzoo.files import write_atomic
    from kdzoo.results.leaderboard import leaderboard
    from kdzoo.results.store import read_records
    from kdzoo.training.benchmark import parse_cfg_options
    from kdzoo.training.reporter import choose_reporter
    from kdzoo.training.runtime import runtime

    planned = plan(
        benchmark=options.benchmark, methods=options.methods or DEFAULT_METHODS, seeds=options.seeds,
        epochs=options.epochs, teacher_epochs=options.teacher_epochs, cae_epochs=options.cae_epochs,
        val_fraction=options.val_fraction, data_root=options.data_root, work_dir=options.work_dir,
        device=options.device, precision=options.precision, teacher_checkpoint=options.teacher_checkpoint,
        cfg_options=parse_cfg_options(options.cfg_options),
    )  # fmt: skip
    with runtime(planned.device, options.threads):
        if options.dry_run:
            print(describe(planned))
            return OK
        # A record that cannot be read shall be heard of now, not after hours of training.
        runs = options.work_dir / "runs"
        read_records([runs] if runs.is_dir() else [])
        try:
            results = execute(
                planned, threads=options.threads, reporter=choose_reporter(),
                command=shlex.join(["python", "-m", "kdzoo.bench", *given[1:]]),
            )  # fmt: skip
        except KeyboardInterrupt:
            print(_kept(planned), file=sys.stderr)
            return INTERRUPTED
    if results.records:
        print(f"\n{results.table}")
        page = options.work_dir / "leaderboard.md"
        write_atomic(page, leaderboard(read_records([runs])).encode())
        print(f"\nLeaderboard of all records in {options.work_dir}: {page}")
    for name, fault in results.failed.items():
        print(f"\n{name} failed and has no record; the same command tries it again:", file=sys.stderr)
        if isinstance(fault, KdzooError):
            print(fault, file=sys.stderr)
        else:
            traceback.print_exception(fault)
    return FAULT if results.failed else OK


def _kept(planned: Plan) -> str:
    done = [m for m in planned.members if m.record() is not None]
    going = [m for m in planned.members if m not in done and m.position is not None]
    parts = [f"{len(done)} of {len(planned.members)} members are finished"]
    if going:
        newest = max(m.position for m in going if m.position is not None)
        step = f", step {newest.step}" if newest.step else ""
        parts.append(f"{len(going)} have a checkpoint after epoch {newest.epoch}{step}")
    where = f"{', '.join(parts)} in {planned.work_dir}"
    return f"Interrupted. {where}. Run the same command again to go on from there."


def describe(planned: Plan) -> str:
    """Say what a plan will train, what it reuses, what is done, and how long it takes.

    Args:
        planned: what `plan` gave.
    """
    from kdzoo.training.estimate import estimate
    from kdzoo.training.reporter import duration

    benchmark, data, recipe = planned.benchmark, planned.data, planned.benchmark.student.recipe
    validation = f", {len(data.validation)} validation" if data.validation else ""
    lines = [
        f"{benchmark.name}: {data.name}, {len(data.train)} training{validation} and {len(data.test)} test "
        f"images, "
        f"{planned.data.channels}x{planned.size}x{planned.size}",
        f"student {benchmark.student.network}: {recipe.epochs} epochs, batch size {recipe.batch_size}, "
        f"{benchmark.precision}, on {planned.device}",
        *planned.remarks,
    ]
    pending = planned.pending()
    needed = {k for m in pending for k in m.artifacts.values()}
    missing = []
    for key, artifact in planned.artifacts.items():
        if key not in needed:
            state = "not needed"
        elif artifact.ready:
            state = "reuse"
        else:
            state = "read" if artifact.given else "train"
            missing.append(artifact)
        detail = f"from {artifact.given}" if artifact.given else f"{artifact.section.recipe.epochs} epochs"
        lines.append(
            f"  {state:10s} {artifact.name} ({artifact.section.network}, {detail}): {artifact.folder}"
        )
    for member in planned.members:
        position = member.position
        if member not in pending:
            state = "done"
        else:
            state = f"go on after epoch {position.epoch}" if position else "train"
        lines.append(f"  {state:10s} {member.method.name}, seed {member.seed}: {member.folder}")
    seconds = estimate(planned, pending, missing)
    unknown = "unknown: nothing comparable was recorded on this machine"
    lines.append(
        f"time: {unknown if seconds is None else f'about {duration(seconds)}'}"
        if pending
        else "nothing to train"
    )
    return "\n".join(lines)


def _leaderboard(options: argparse.Namespace, given: list[str]) -> int:
    from kdzoo.files import write_atomic
    from kdzoo.results.leaderboard import leaderboard, leaderboard_csv, terminal_table
    from kdzoo.results.store import read_records

    for page in (options.output, options.csv):
        if page is not None and page.is_dir():
            raise UsageError(f"leaderboard: {page} is a folder. Name a file to write.")
    records = read_records(options.records)
    if not records:
        raise UsageError(
            f"leaderboard: no records in {', '.join(map(str, options.records))}. Run kdzoo bench first."
        )
    print(terminal_table(records))
    write_atomic(options.output, leaderboard(records, title=options.title).encode())
    print(f"\n{len(records)} records: {options.output}")
    if options.csv:
        write_atomic(options.csv, leaderboard_csv(records).encode())
        print(f"{len(records)} records: {options.csv}")
    return OK


def _list(options: argparse.Namespace, given: list[str]) -> int:
    from kdzoo.listing import listing

    print(listing(options.what, verbose=options.verbose))
    return OK


if __name__ == "__main__":
    sys.exit(main())

"""What the commands do, once their words are read. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import gc
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kdzoo.checks import UsageError

if TYPE_CHECKING:
    from kdzoo.training.plan import Plan

OK, FAULT, MISTAKE, INTERRUPTED = 0, 1, 2, 130


def bench(options: argparse.Namespace, given: list[str]) -> int:
    """Plan, train and show."""
    with _collector_at_rest():
        from kdzoo.api import DEFAULT_METHODS, execute, plan
    from kdzoo.data.progress import Terminal, shown_by
    from kdzoo.files import write_atomic
    from kdzoo.results.leaderboard import leaderboard
    from kdzoo.results.store import read_records
    from kdzoo.training.benchmark import parse_cfg_options
    from kdzoo.training.choices import check_workers
    from kdzoo.training.faults import told, traceback_of
    from kdzoo.training.graphs import check_graphs
    from kdzoo.training.reporter import choose_reporter
    from kdzoo.training.runtime import runtime

    check_workers(options.workers)
    check_graphs(options.cuda_graphs)
    _load_plugins(options)
    with _collector_at_rest(), shown_by(Terminal()):
        planned = plan(
            benchmark=options.benchmark, methods=options.methods or DEFAULT_METHODS, seeds=options.seeds,
            epochs=options.epochs, teacher_epochs=options.teacher_epochs, cae_epochs=options.cae_epochs,
            val_fraction=options.val_fraction, data_root=options.data_root, work_dir=options.work_dir,
            device=options.device, precision=options.precision,
            teacher_checkpoint=options.teacher_checkpoint,
            cfg_options=parse_cfg_options(options.cfg_options), student=options.student,
            teacher=options.teacher, data=options.data, compile=options.compile, views=options.views,
            teacher_bank=options.teacher_bank, bank_limit=options.bank_limit, digests=options.digests,
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
                planned, threads=options.threads, workers=options.workers, reporter=choose_reporter(),
                command=shlex.join(["python", "-m", "kdzoo.bench", *given[1:]]),
                cuda_graphs=options.cuda_graphs,
            )  # fmt: skip
        except KeyboardInterrupt:
            print(_kept(planned), file=sys.stderr)
            return INTERRUPTED
    if results.records:
        print(f"\n{results.table}")
        page = options.work_dir / "leaderboard.md"
        write_atomic(page, leaderboard(read_records([runs])).encode())
        print(f"\nLeaderboard of all records in {options.work_dir}: {page}")
        folders = list(dict.fromkeys(m.folder.parent.parent for m in planned.members))
        print(f"Students, each with its record: {', '.join(map(str, folders))}")
    for name, fault in results.failed.items():
        print(f"\n{name} failed: {told(fault)}", file=sys.stderr)
        if trace := traceback_of(fault):
            print(trace, file=sys.stderr)
    if results.failed:
        print("\nWhat failed has no record; the same command tries it again.", file=sys.stderr)
    return FAULT if results.failed else OK


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """Keep Python from looking for garbage while torch is imported, and afterwards from looking at all that
    came: hundreds of thousands of objects that stay, a seventh of the time to the first step."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.freeze()
            gc.enable()


def _load_plugins(options: argparse.Namespace) -> None:
    if options.plugin:
        from kdzoo.plugins import load_plugin

        for path in options.plugin:
            load_plugin(path)


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
    from kdzoo.results.words import counted
    from kdzoo.training.estimate import estimate
    from kdzoo.training.planned_bank import describe_bank
    from kdzoo.training.reporter import duration

    benchmark, data, recipe = planned.benchmark, planned.data, planned.benchmark.student.recipe
    validation = f", {len(data.validation)} validation" if data.validation else ""
    lines = [
        f"{benchmark.name}: {data.name}, {len(data.train)} training{validation} and "
        f"{counted(len(data.test), 'test images')}, "
        f"{planned.data.channels}x{planned.size}x{planned.size}",
        f"student {benchmark.student.network}: {counted(recipe.epochs, 'epochs')}, "
        f"batch size {recipe.batch_size}, {planned.computed}, on {planned.device}",
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
            state = "train" if artifact.origin == "trained" else "read"
            missing.append(artifact)
        detail = {
            "trained": counted(artifact.section.recipe.epochs, "epochs"),
            "checkpoint": f"from {artifact.given}",
            "pretrained": "pretrained, as it comes",
        }[artifact.origin]
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
    lines += describe_bank(planned)
    seconds = estimate(planned, pending, missing)
    unknown = "unknown: nothing comparable was recorded on this machine"
    lines.append(
        f"time: {unknown if seconds is None else f'about {duration(seconds)}'}"
        if pending
        else "nothing to train"
    )
    return "\n".join(lines)


def leaderboard_page(options: argparse.Namespace, given: list[str]) -> int:
    """Make a leaderboard from records."""
    from kdzoo.files import OUTPUT, write_atomic
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
    write_atomic(options.output, leaderboard(records, title=options.title).encode(), OUTPUT)
    print(f"\n{len(records)} records: {options.output}")
    if options.csv:
        write_atomic(options.csv, leaderboard_csv(records).encode(), "choose another --csv")
        print(f"{len(records)} records: {options.csv}")
    return OK


def show_list(options: argparse.Namespace, given: list[str]) -> int:
    """Show what is registered."""
    from kdzoo.listing import listing

    _load_plugins(options)

    print(listing(options.what, verbose=options.verbose))
    return OK


def new(options: argparse.Namespace, given: list[str]) -> int:
    """Write a plug-in to start from, and say what to do with it."""
    from kdzoo.scaffold import KINDS, write_new

    plugin, test = write_new(options.kind, options.name, options.output)
    use = KINDS[options.kind][1].format(name=options.name)
    print(f"{plugin}: the {options.kind}, whole and ready to be changed")
    print(f"{test}: its tests: python -m pytest {test} (pip install pytest)")
    print(f"Train with it: python -m kdzoo.bench --plugin {plugin} {use}")
    return OK


def export(options: argparse.Namespace, given: list[str]) -> int:
    """Write a trained student for use elsewhere."""
    from kdzoo.students import export_student, load_student

    _load_plugins(options)
    student = load_student(options.run_name, work_dir=options.work_dir, benchmark=options.benchmark)
    print("\n".join(export_student(student, options.format, options.output)))
    return OK


def predict(options: argparse.Namespace, given: list[str]) -> int:
    """Show the classes that a trained student sees in pictures."""
    from tabulate import tabulate

    from kdzoo.students import load_student
    from kdzoo.training.choices import choose_device
    from kdzoo.training.runtime import runtime

    _load_plugins(options)
    device = choose_device(options.device)
    with runtime(device, options.threads):
        student = load_student(
            options.run_name, work_dir=options.work_dir, benchmark=options.benchmark, device=device
        )
        found = student.predict(options.images, top=options.top)
    if student.changed:
        print(student.changed, file=sys.stderr)
    for picture, likely in zip(options.images, found, strict=True):
        print(picture)
        rows = [[f"{100 * probability:.1f} %", name] for name, probability in likely]
        print(tabulate(rows, tablefmt="plain", colalign=("right", "left"), disable_numparse=True))
    return OK


def evaluate(options: argparse.Namespace, given: list[str]) -> int:
    """Measure a trained student again, beside what its record says."""
    from kdzoo.data.progress import Terminal, shown_by
    from kdzoo.students import load_student
    from kdzoo.students.evaluate import evaluate_student
    from kdzoo.training.choices import choose_device
    from kdzoo.training.runtime import runtime

    _load_plugins(options)
    device = choose_device(options.device)
    with runtime(device, options.threads), shown_by(Terminal()):
        student = load_student(
            options.run_name, work_dir=options.work_dir, benchmark=options.benchmark, device=device
        )
        print(evaluate_student(student, folder=options.folder, data_root=options.data_root))
    return OK


def work_list(options: argparse.Namespace, given: list[str]) -> int:
    """Show what a work directory holds."""
    from kdzoo.results.holdings import find_things
    from kdzoo.work import listing

    print(listing(options.work_dir, find_things(options.work_dir), verbose=options.verbose))
    return OK


def work_remove(options: argparse.Namespace, given: list[str]) -> int:
    """Remove things of a work directory, but for those that a running process holds."""
    from kdzoo.results.holdings import find_things
    from kdzoo.results.words import printable, sized
    from kdzoo.work import free, select

    things, would = find_things(options.work_dir), options.dry_run
    chosen = select(things, options.what, options.work_dir, finished=options.finished)
    freed = held = 0
    for thing in chosen:
        name = printable(thing.name)
        if free(thing, dry_run=would):
            freed += thing.size
            print(f"{'would remove' if would else 'removed'} {name}: {sized(thing.size)}")
        else:
            held += 1
            print(f"{name}: a running process uses it, so it stays.", file=sys.stderr)
    print(f"{sized(freed)} {'would be freed' if would else 'freed'}" if chosen else "nothing to remove")
    return FAULT if held else OK

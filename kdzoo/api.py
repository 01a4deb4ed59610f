"""kdzoo from Python: what the command does, with results in hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdzoo.checks import KdzooError
from kdzoo.results.leaderboard import leaderboard, plain_rows, terminal_table
from kdzoo.results.record import Record
from kdzoo.training.benchmark import load_benchmark
from kdzoo.training.plan import Plan, make_plan
from kdzoo.training.reporter import Reporter, choose_reporter
from kdzoo.training.runtime import runtime
from kdzoo.training.session import Session

DEFAULT_METHODS = "scratch,dkd,reffakd"
DEFAULT_WORK_DIR = Path("work_dirs")


@dataclass(frozen=True)
class Results:
    """What came of a run; everything in it is read from records.

    Attributes:
        records: of all members that are finished, in the order asked for.
        failed: members that raised, with what they raised; they are tried again next time.
    """

    records: tuple[Record, ...]
    failed: Mapping[str, BaseException] = field(default_factory=dict)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One plain dictionary a method: means, standard deviations and counts over seeds."""
        return plain_rows(self.records)

    @property
    def table(self) -> str:
        """The table that the command prints."""
        return terminal_table(self.records)

    @property
    def leaderboard(self) -> str:
        """The leaderboard in Table 8's layout, in Markdown."""
        return leaderboard(self.records)

    def __str__(self) -> str:
        failures = [f"{name} failed: {fault}" for name, fault in self.failed.items()]
        return "\n".join([*([self.table] if self.records else []), *failures])


def plan(
    *,
    benchmark: str = "digits",
    methods: str | Sequence[str] = DEFAULT_METHODS,
    seeds: int | str | Sequence[int] = 1,
    epochs: int | None = None,
    teacher_epochs: int | None = None,
    cae_epochs: int | None = None,
    val_fraction: float = 0.0,
    data_root: str | Path | None = None,
    work_dir: str | Path = DEFAULT_WORK_DIR,
    device: str | None = None,
    precision: str = "float32",
    teacher_checkpoint: str | Path | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> Plan:
    """Resolve and check what `run` would do; nothing is trained.

    Args:
        benchmark: a name of `kdzoo list benchmarks`, or the path of a config file.
        methods: the method grammar's list, for example "kd,dkd:beta=4,reffakd" or "table8".
        seeds: how many (3 means 0, 1, 2), or which ones.
        epochs: of the students; None keeps the benchmark's. Milestones scale with it.
        teacher_epochs: of the teacher.
        cae_epochs: of ReffAKD's autoencoder.
        val_fraction: share of the training images split off for validation, in [0, 1).
        data_root: where the data's files are; None looks in the usual places.
        work_dir: where artifacts, checkpoints and records are kept.
        device: "cpu", "cuda", "cuda:1"; None takes a GPU if there is one.
        precision: "float32" or "bf16".
        teacher_checkpoint: a teacher of your own (.safetensors, or .pt with tensors alone).
        cfg_options: config entries by dotted name, for example {"recipe.batch_size": 128}.

    Raises:
        UsageError: all that is wrong, a line each.
    """
    settings = load_benchmark(
        str(benchmark),
        epochs=epochs,
        section_epochs={"teacher": teacher_epochs, "autoencoder": cae_epochs},
        precision=precision,
        val_fraction=val_fraction,
        cfg_options=cfg_options,
    )
    return make_plan(
        settings,
        methods=methods,
        seeds=seeds,
        work_dir=Path(work_dir),
        device=device,
        data_root=None if data_root is None else Path(data_root),
        teacher_checkpoint=None if teacher_checkpoint is None else Path(teacher_checkpoint),
    )


def run(*, threads: int | None = None, progress: bool = False, **options: Any) -> Results:
    """Train every method that has no record yet, and give all results.

    Args:
        threads: CPU threads; None leaves torch's choice. Results repeat bit for bit for the same number.
        progress: whether to show progress.
        options: as `plan` takes them.

    Returns:
        Results of everything asked for, whether trained now or found finished.

    Raises:
        UsageError: all that is wrong, a line each, before anything is trained.
        StorageError: something could not be written; the last good state is kept.
    """
    return execute(plan(**options), threads=threads, reporter=choose_reporter() if progress else Reporter())


def execute(
    planned: Plan, *, threads: int | None = None, reporter: Reporter | None = None, command: str = "kdzoo.run"
) -> Results:
    """Carry out a plan.

    Args:
        planned: what `plan` gave.
        threads: CPU threads; None leaves torch's choice.
        reporter: shows progress; None shows nothing.
        command: how the run was started, for records.
    """
    reporter = reporter or Reporter()
    for remark in planned.remarks:
        reporter.message(remark)
    with runtime(planned.device, threads):
        session = Session(planned, reporter, command)
        try:
            session.run()
        finally:
            reporter.finish()
    records = [m.record() for m in planned.members]
    return Results(tuple(r for r in records if r is not None), session.failed)


__all__ = ["KdzooError", "Results", "execute", "plan", "run"]

"""kdzoo from Python: what the command does, with results in hand."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from kdzoo import distillers
from kdzoo.checks import Interval, KdzooError, Problems, UsageError, unknown, usage
from kdzoo.data import Dataset
from kdzoo.data.arrays import as_dataset
from kdzoo.data.progress import Display, Terminal, shown_by
from kdzoo.distillers import Distiller
from kdzoo.models.base import outputs_of
from kdzoo.outputs import Batch, Setting, norms_of, shapes_of
from kdzoo.registry import DISTILLERS, SOURCES
from kdzoo.results.leaderboard import leaderboard, plain_rows, terminal_table
from kdzoo.results.record import Record
from kdzoo.sources.base import ClassSource, check_soft_labels
from kdzoo.training.benchmark import load_benchmark
from kdzoo.training.choices import check_workers
from kdzoo.training.evaluation import chunk_of
from kdzoo.training.execution import compiling
from kdzoo.training.faults import told
from kdzoo.training.graphs import check_graphs, chosen_graphs
from kdzoo.training.plan import Plan
from kdzoo.training.planning import make_plan
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
        failures = [f"{name} failed: {told(fault)}" for name, fault in self.failed.items()]
        return "\n".join([*([self.table] if self.records else []), *failures])


P = ParamSpec("P")
R = TypeVar("R")


def _known_arguments(*without: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Answer an unknown argument as all other mistakes are; what is called passes its options on to `plan`.

    Args:
        without: those of `plan` that are not passed on.
    """

    def answering(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def answered(*given: P.args, **options: P.kwargs) -> R:
            own = inspect.signature(function).parameters
            names = [*(n for n in own if n != "options"), *inspect.signature(plan).parameters]
            known = list(dict.fromkeys(n for n in names if n not in without))
            problems = Problems()
            for name in options:
                if name not in known:
                    with problems:
                        raise unknown(function.__name__, "argument", name, known)
            problems.raise_all()
            return function(*given, **options)

        return answered

    return answering


@_known_arguments()
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
    student: str | None = None,
    teacher: str | None = None,
    data: str | Dataset | Sequence[Any] | None = None,
    compile: str = "auto",
    views: int | None = None,
    teacher_bank: str | Path = "auto",
    bank_limit: float = 4.0,
    digests: str = "own",
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
        precision: "float32", "bf16", or "auto": bf16 for wide networks where the device has instructions for
            it (`kdzoo.training.execution.chosen_precision`).
        teacher_checkpoint: a teacher of your own (.safetensors, or .pt with tensors alone).
        cfg_options: config entries by dotted name, for example {"recipe.batch_size": 128}.
        student: another network for the student: a name of `kdzoo list models`, "timm:NAME",
            "torchvision:NAME" or "module:PACKAGE.NAME", with options as in "timm:resnet18:pretrained=true".
        teacher: another network for the teacher, written likewise.
        data: another data set: a name with options, as in "image_folder:size=96"; what `kdzoo.from_arrays`
            gives; or the four arrays (train_images, train_labels, test_images, test_labels) that it takes.
            The benchmark then takes the data's name.
        compile: "on", "off" or "auto": whether `torch.compile` makes the passes of students and teacher.
        views: epochs after which the augmentation repeats; None has new views in every epoch.
        teacher_bank: where the teacher's answers are kept and read again: "auto" for the work directory, a
            folder, or "off". It changes no number.
        bank_limit: of a bank, in GB; what does not fit is computed anew in every step.
        digests: "float16" rounds the teacher's answers to 16 bits, kept or not, for banks of half the size;
            "own" leaves them as they are.

    Raises:
        UsageError: all that is wrong, a line each.
    """
    dataset = None if data is None or isinstance(data, str) else as_dataset(data)
    settings = load_benchmark(
        str(benchmark),
        epochs=epochs,
        section_epochs={"teacher": teacher_epochs, "autoencoder": cae_epochs},
        precision=precision,
        val_fraction=val_fraction,
        cfg_options=cfg_options,
        student=student,
        teacher=teacher,
        data=data if isinstance(data, str) else None if dataset is None else dataset.name,
        compile=compile,
        views=views,
        digests=digests,
    )
    made = make_plan(
        settings,
        methods=methods,
        seeds=seeds,
        work_dir=Path(work_dir),
        device=device,
        data_root=None if data_root is None else Path(data_root),
        teacher_checkpoint=None if teacher_checkpoint is None else Path(teacher_checkpoint),
        dataset=dataset,
        teacher_bank=teacher_bank,
        bank_limit=bank_limit,
    )
    if teacher is None or any("teacher" in member.artifacts for member in made.members):
        return made
    unused = f"The teacher {teacher} is not used: none of the methods needs a teacher."
    return replace(made, remarks=(*made.remarks, unused))


@_known_arguments()
def run(
    *, threads: int | None = None, workers: int | None = None, progress: bool = False,
    cuda_graphs: str = "auto", **options: Any,
) -> Results:  # fmt: skip
    """Train every method that has no record yet, and give all results.

    Args:
        threads: CPU threads; None leaves torch's choice. Results repeat bit for bit for the same number.
        workers: processes that decode streamed pictures, which change no number; None takes one for each
            processor, at most 8.
        progress: whether to show progress.
        cuda_graphs: "auto", "on" or "off": whether a GPU repeats students' steps by itself (`execute`).
        options: as `plan` takes them.

    Returns:
        Results of everything asked for, whether trained now or found finished.

    Raises:
        UsageError: all that is wrong, a line each, before anything is trained.
        StorageError: something could not be written; the last good state is kept.
    """
    check_workers(workers)
    check_graphs(cuda_graphs)
    reporter = choose_reporter() if progress else Reporter()
    with shown_by(Terminal() if progress else Display()):
        planned = plan(**options)
    return execute(planned, threads=threads, workers=workers, reporter=reporter, cuda_graphs=cuda_graphs)


def execute(
    planned: Plan,
    *,
    threads: int | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
    command: str = "kdzoo.run",
    cuda_graphs: str = "auto",
) -> Results:
    """Carry out a plan.

    Args:
        planned: what `plan` gave.
        threads: CPU threads; None leaves torch's choice.
        workers: processes that decode streamed pictures; None takes one for each processor, at most 8.
        reporter: shows progress; None shows nothing.
        command: how the run was started, for records.
        cuda_graphs: "auto", "on" or "off": whether a GPU repeats students' steps by itself, which changes no
            number; "auto" does where nothing is compiled, for methods and networks that are not plug-ins.

    Raises:
        UsageError: `workers`, `threads` or `cuda_graphs` is none of those.
        StorageError: something could not be written; the last good state is kept.
    """
    reporter = reporter or Reporter()
    graphs, remark = chosen_graphs(cuda_graphs, planned.device, planned.compiled)
    for line in (*planned.remarks, *([remark] if remark else [])):
        reporter.message(line)
    with runtime(planned.device, threads), compiling(planned.compiled):
        session = Session(
            planned,
            reporter,
            command,
            workers=check_workers(workers),
            graphs=graphs,
            graphs_of_all=cuda_graphs == "on",
        )
        try:
            session.run()
        finally:
            reporter.finish()
    records = [m.record() for m in planned.members]
    return Results(tuple(r for r in records if r is not None), session.failed)


@_known_arguments("methods", "seeds")
def soft_labels(
    source: str,
    *,
    temperature: float = 4.0,
    seed: int = 0,
    threads: int | None = None,
    progress: bool = False,
    **options: Any,
) -> Tensor:
    """Make the soft labels of a source, for a training loop of your own or to look at them.

    What the source needs (an autoencoder, a teacher) is trained, or fetched if a run has trained it before.

    Args:
        source: a name of `kdzoo list sources` with its options, for example "reffakd:gamma=auto".
        temperature: divides scores, such as a teacher's; probabilities stay as they are.
        seed: of the run, which draws the images.
        threads: CPU threads; None leaves torch's choice.
        progress: whether to show the training of what the source needs.
        options: as `plan` takes them: benchmark, data_root, work_dir, device, cae_epochs, ...

    Returns:
        Probabilities on the CPU: [K, K], a row for each class, of ReffAKD, its controls and other sources
        made by class; else [N, K], a row for each training image as it is, without augmentation.

    Raises:
        UsageError: all that is wrong, a line each.
        KdzooError: an artifact could not be trained, or what the source gives are no distributions.
    """
    if not (isinstance(temperature, (int, float)) and temperature in Interval(low=0, open_low=True)):
        raise usage("soft_labels", "temperature", "a number in (0, inf)", temperature)
    if not isinstance(source, str) or not re.fullmatch(r"\w[^,*?\[\]+]*", source):
        raise usage("soft_labels", "source", "one source, for example 'reffakd:gamma=auto'", source)
    planned = plan(methods=[f"kd+{source}"], seeds=[seed], **options)
    (member,) = planned.members
    with runtime(planned.device, threads), compiling(planned.compiled):
        reporter = choose_reporter() if progress else Reporter()
        try:
            made, images = Session(planned, reporter, "kdzoo.soft_labels").ready_source(member)
        finally:
            reporter.finish()
        if isinstance(made, ClassSource):
            return made.class_rows.cpu()
        rows, everything = [], torch.arange(len(images), device=planned.device)
        with torch.no_grad(), images:
            for part in torch.split(everything, chunk_of(images.size)):
                batch = Batch(images.clean(part.cpu()), images.labels[part], part)
                given = made(batch)
                check_soft_labels(made, given, (len(part), len(planned.data.classes)))
                rows.append(given.log_probs(temperature).exp())
        return torch.cat(rows).cpu()


def build_distiller(
    name: str | type[Distiller],
    student: nn.Module,
    teacher: nn.Module | None = None,
    example_input: Tensor = None,  # type: ignore[assignment]
    *,
    labels: Tensor | None = None,
    **options: Any,
) -> Distiller:
    """Build a distiller for two networks of your own, for a training loop of your own: see `Distiller.loss`.

    Both networks run once on the example, in evaluation mode, and are left as they were. Networks return a
    `kdzoo.ModelOutput` with the fields that the method needs; for a method of soft labels alone, logits will
    do. Trained parts of the method (FitNet's regressor) draw their weights from torch's default generator.

    Args:
        name: a name of `kdzoo list methods`, or a class.
        student: the network that will be trained.
        teacher: the network that guides it; None where the method needs none.
        example_input: [N, C, H, W], images as both networks take them, on their device.
        labels: [M] class numbers of the training set, for a method that reads them before training.
        options: of the method.

    Returns:
        A module on the student's device. Give its parameters to the optimizer, too.

    Raises:
        UsageError: an unknown name or option, or a pair of networks that the method cannot take.
    """
    _check_arguments(name, student, teacher, example_input)
    of_student = outputs_of(student, example_input)
    of_teacher = None if teacher is None else outputs_of(teacher, example_input)
    who, cls = (name, DISTILLERS.find(name)) if isinstance(name, str) else (name.__name__, name)
    classes = of_student.logits.shape[-1]
    if of_teacher is not None and "soft_labels" in cls.needs and of_teacher.logits.shape[-1] != classes:
        raise UsageError(
            f"{who}: student and teacher must have the same classes, got {classes} and "
            f"{of_teacher.logits.shape[-1]}. Choose a teacher for the student's classes."
        )
    setting = Setting(
        student=shapes_of(of_student),
        teacher=None if of_teacher is None else shapes_of(of_teacher),  # type: ignore[arg-type]
        teacher_head=getattr(teacher, "classifier", None),
        classes=classes,
        labels=torch.empty(0, dtype=torch.int64) if labels is None else labels,
        teacher_norms=None if teacher is None else norms_of(teacher),
    )
    return distillers.build_distiller(name, setting, options).to(of_student.logits.device)


def _check_arguments(name: Any, student: Any, teacher: Any, example_input: Any) -> None:
    """Refuse what is no distiller, no network, or no batch of images; all of it at once."""
    who, problems = "build_distiller", Problems()
    with problems:
        if not isinstance(name, str) and not (isinstance(name, type) and issubclass(name, Distiller)):
            raise usage(who, "its first argument", "a name of `kdzoo list methods` or a class", name)
        if isinstance(name, str) and (":" in name or "+" in name or name in SOURCES.names()):
            raise UsageError(
                f"{who}: {name!r} is no distiller alone. Give options as keywords, and soft labels to the "
                "distiller's loss(..., soft_labels=...)."
            )
    for role, network in (("student", student), ("teacher", teacher)):
        with problems:
            if not isinstance(network, nn.Module) and not (network is None and role == "teacher"):
                raise usage(who, f"the {role}", "a torch.nn.Module", type(network).__name__)
    with problems:
        if not isinstance(example_input, Tensor) or not example_input.is_floating_point():
            got = example_input.dtype if isinstance(example_input, Tensor) else type(example_input).__name__
            raise usage(who, "example_input", "a batch of images, floating-point [N, C, H, W]", got)
    problems.raise_all()


__all__ = ["KdzooError", "Results", "build_distiller", "execute", "plan", "run", "soft_labels"]

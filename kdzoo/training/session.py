"""Carrying out a plan: artifacts first, then for each seed its cohorts, and a record for every member that
finishes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from filelock import Timeout
from torch import Tensor, nn

from kdzoo.checks import KdzooError, StorageError
from kdzoo.data import Split
from kdzoo.data.picture_files import PictureFiles
from kdzoo.data.pipeline import Feed
from kdzoo.data.stream import feed_of
from kdzoo.data.views import resize
from kdzoo.distillers import build_distiller
from kdzoo.files import open_lock
from kdzoo.keys import key
from kdzoo.outputs import Setting, norms_of
from kdzoo.registry import DISTILLERS
from kdzoo.results.sheet import check_sheet
from kdzoo.results.words import counted
from kdzoo.sources import Source, build_source
from kdzoo.training import checkpoint
from kdzoo.training.artifacts import Artifact, ArtifactPlan, Foundry, resume
from kdzoo.training.bank import TeacherBank
from kdzoo.training.banked import BankedTeacher
from kdzoo.training.checkpoint import START, Position
from kdzoo.training.cohort import Cohort
from kdzoo.training.evaluation import CHUNK
from kdzoo.training.execution import for_teaching, laid_out
from kdzoo.training.finished import sheet_of, write_finished
from kdzoo.training.keeping import Keeping
from kdzoo.training.loop import CHECKPOINT_SECONDS, Training, seeded_network, train
from kdzoo.training.member import Distillation, Member
from kdzoo.training.needs import needs_teacher, source_name
from kdzoo.training.networks import SharedTeacher
from kdzoo.training.optimisers import build_optimizer
from kdzoo.training.plan import Plan, PlannedMember, setting_of
from kdzoo.training.planned_bank import bank_of, keeping_of, told_of
from kdzoo.training.planning import check_current
from kdzoo.training.recording import CudaRecorder, Recorder
from kdzoo.training.reporter import Reporter
from kdzoo.training.runtime import seed_generators
from kdzoo.training.workshop import RunWorkshop


@dataclass
class Session:
    """One start of a plan.

    Args:
        plan: what to do.
        reporter: shows progress.
        command: the command line, for records.
        workers: processes that decode streamed pictures.
        checkpoint_seconds: longest time between two checkpoints inside an epoch.
        graphs: whether the device repeats members' steps by itself.
        graphs_of_all: those of methods and networks from outside, too.

    Attributes:
        failed: members that raised, with what they raised; they have no record and are tried again next time.
    """

    plan: Plan
    reporter: Reporter
    command: str
    workers: int = 0
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    graphs: bool = False
    graphs_of_all: bool = False
    failed: dict[str, BaseException] = field(default_factory=dict)

    def run(self) -> None:
        """Train whatever has no record yet; with nothing left to do, do nothing.

        What fails takes only those members with it that need it; they stand in `failed`.

        Raises:
            StorageError: something could not be written; the last good state is kept.
        """
        pending = self.plan.pending()
        for member in self.plan.members:
            # A kill between the record and this leaves checkpoints that nobody needs.
            if member not in pending and member.position is not None:
                checkpoint.discard(member.folder)
        if not pending:
            return
        check_sheet(sheet_of(self.plan, pending[0].key, pending[0].key))
        self._open()
        with self._closing():
            pending = self._with_teachers(pending)
            for seed in self.plan.seeds:
                self._run_seed([m for m in pending if m.seed == seed])

    def ready_source(self, member: PlannedMember) -> tuple[Source, Feed]:
        """Make a member's source of soft labels ready, with the artifacts that it needs; train no student.

        Returns:
            The source, and the training images of the member's seed.

        Raises:
            KdzooError: an artifact could not be trained.
        """
        self._open()
        with self._closing():
            self._with_teachers([member])
            self._raise_fault()
            images = self._pipeline("train", member.seed, CHUNK)
            teacher = self._teacher_of([member])
            shared = None if teacher is None else SharedTeacher(*self._ready_teacher(teacher))
            sources, _ = self._sources([member], images, shared)
            self._raise_fault()
        return sources[source_name(member.method) or ""], images

    @contextmanager
    def cohort_of(self, seed: int) -> Iterator[Cohort]:
        """Give all members of a seed as one cohort at its start, artifacts ready, whose steps the caller
        takes: for measurements.

        Nothing of it is written, and what may be recorded of the members does not matter.

        Raises:
            KdzooError: an artifact, or a source of soft labels, could not be made.
        """
        self._open()
        with self._closing():
            planned = self._with_teachers([m for m in self.plan.members if m.seed == seed])
            self._raise_fault()
            with self._pipeline("train", seed, self.plan.benchmark.student.recipe.batch_size) as images:
                teacher = self._teacher_of(planned)
                cohort, _ = self._cohort(planned, images, teacher)
                self._raise_fault()
                try:
                    yield cohort
                finally:
                    cohort.close()

    def _raise_fault(self) -> None:
        for fault in self.failed.values():
            raise fault

    def _open(self) -> None:
        """Make the images ready for all pipelines, and the foundry of artifacts."""
        check_current(self.plan)
        plan, views = self.plan, self.plan.benchmark.views
        data, side = plan.data, plan.size
        splits = {"train": data.train, "test": data.test} | (
            {"validation": data.validation} if data.validation else {}
        )
        # Resized once for all pipelines: it is deterministic and comes before everything random.
        self._splits = {name: _resized(split, side) for name, split in splits.items()}
        self._views = replace(views, resize=None)
        self._judged = {
            name: self._pipeline(name, seed=0, batch_size=CHUNK) for name in self._splits if name != "train"
        }
        self._foundry = Foundry(
            lambda name, size: self._pipeline("train", key(0, "artifact", name), size, repeating=False),
            self._judged, plan.device, self.reporter, self.checkpoint_seconds, self._recorder,
        )  # fmt: skip

    @contextmanager
    def _closing(self) -> Iterator[None]:
        """End what works ahead for the images that networks are judged on."""
        try:
            yield
        finally:
            for images in self._judged.values():
                images.close()

    def _pipeline(self, split: str, seed: int, batch_size: int, *, repeating: bool = True) -> Feed:
        mean, std = self.plan.statistics
        views = self._views if repeating else replace(self._views, repeat=None)
        return feed_of(
            self._splits[split], views=views, workers=self.workers, mean=mean, std=std,
            batch_size=batch_size, seed=seed, device=self.plan.device,
        )  # fmt: skip

    def _with_teachers(self, pending: list[PlannedMember]) -> list[PlannedMember]:
        """Make or fetch the teacher if somebody needs it, so that its accuracy is seen before students are
        trained; give the members that can go on."""
        able = []
        for member in pending:
            with self._setting_aside([member]):
                if "teacher" in member.artifacts:
                    self._classifier(self.plan.artifacts[member.artifacts["teacher"]])
                able.append(member)
        return able

    def _classifier(self, planned: ArtifactPlan) -> Artifact:
        """Train a network on the labels, or fetch it."""
        scratch = Distillation(DISTILLERS.find("scratch")(), planned.precision)
        return self._foundry.make(planned, scratch)

    @contextmanager
    def _setting_aside(self, members: list[PlannedMember]) -> Iterator[None]:
        """Note what is raised as the fault of members, and go on without them; only a full disk stops all."""
        try:
            yield
        except StorageError:
            raise
        except Exception as error:
            self.failed |= {f"{m.method.name}, seed {m.seed}": error for m in members}

    def _run_seed(self, members: list[PlannedMember]) -> None:
        """Train the members of a seed in as few cohorts as their checkpoints allow; nobody is trained
        twice."""
        waiting: list[PlannedMember] = []
        with ExitStack() as held:
            mine: list[PlannedMember] = []
            for member in members:
                (mine if self._locked(member, held, wait=False) else waiting).append(member)
            for position, cohort in grouped(mine, self.reporter).items():
                self._run_cohort(cohort, position)
        for member in waiting:
            with ExitStack() as held:
                self.reporter.message(
                    f"{member.method.name}, seed {member.seed}: another process trains it; waiting"
                )
                self._locked(member, held, wait=True)
                for position, cohort in grouped([member], self.reporter).items():
                    self._run_cohort(cohort, position)

    def _locked(self, member: PlannedMember, held: ExitStack, *, wait: bool) -> bool:
        lock = open_lock(member.folder)
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            return False
        held.callback(lock.release)
        return True

    def _run_cohort(self, planned: list[PlannedMember], position: Position) -> None:
        """Train some members of one seed side by side, from a position that they share."""
        batch_size = self.plan.benchmark.student.recipe.batch_size
        with self._pipeline("train", planned[0].seed, batch_size) as images:
            self._train_cohort(planned, position, images)

    def _cohort(
        self, planned: list[PlannedMember], images: Feed, teacher: Artifact | None
    ) -> tuple[Cohort, list[PlannedMember]]:
        """Build the members at their start; those whose source of soft labels failed are left out."""
        plan, seed = self.plan, planned[0].seed
        setting = setting_of(plan, teacher=teacher is not None)
        if teacher:
            head = getattr(teacher.network, "classifier", None)
            setting = setting._replace(teacher_head=head, teacher_norms=norms_of(teacher.network))
        members = {p.key: self._member(p, setting) for p in planned}
        shared = None
        if teacher is not None:
            distillers = {m.name: m.distiller for m in members.values()}
            keeping = keeping_of(plan, planned, setting, distillers)
            shared = self._shared_teacher(teacher, keeping, images)
        sources, classifiers = self._sources(planned, images, shared)
        planned = [p for p in planned if (name := source_name(p.method)) is None or name in sources]
        epochs = plan.benchmark.student.recipe.epochs
        left = [members[p.key] for p in planned]
        recorder = self._recorder()
        cohort = Cohort(left, images, epochs, shared, sources, seed, setting.classes, recorder, classifiers)
        for member, origin in zip(left, planned, strict=True):
            if member.graphed is not None and self._from_outside(origin) and not self.graphs_of_all:
                member.graphed.reason = "it comes from outside: --cuda-graphs on records it, too"
        return cohort, planned

    def _from_outside(self, planned: PlannedMember) -> bool:
        """Say whether what a member runs may decide in Python what nobody sees."""
        student = self.plan.protocol["student"]
        return bool({"plug_in", "source_plug_in"} & planned.settings.keys() or "plug_in" in student)

    def _recorder(self) -> Recorder | None:
        return CudaRecorder(self.plan.device) if self.graphs else None

    def _train_cohort(self, planned: list[PlannedMember], position: Position, images: Feed) -> None:
        plan, seed = self.plan, planned[0].seed
        teacher = self._teacher_of(planned)
        cohort, planned = self._cohort(planned, images, teacher)
        if not planned:
            return
        members = {m.name: m for m in cohort.members}
        folders = {p.method.name: p.folder for p in planned}
        start = resume(cohort.members, folders, self.reporter.message) if position != START else START
        by_name = {p.method.name: p for p in planned}
        train(cohort, Training(
            title=f"{plan.benchmark.name}, seed {seed}", recipe=plan.benchmark.student.recipe,
            splits=self._judged, reporter=self.reporter, folders=folders,
            references=teacher.outputs if teacher else {}, start=start,
            checkpoint_seconds=self.checkpoint_seconds,
            on_diverged=lambda member: self._finish(by_name[member.name], member, cohort),
        ))  # fmt: skip
        self.reporter.message(
            f"{plan.benchmark.name}, seed {seed}: {counted(len(members), 'students')}, "
            f"{counted(cohort.steps_run, 'steps')}, {counted(cohort.teacher_passes, 'teacher passes')}"
        )
        for name, member in members.items():
            if member.status == "training":
                self._finish(by_name[name], member, cohort)
            elif member.status == "failed" and member.fault is not None:
                self.failed[f"{name}, seed {seed}"] = member.fault
                # Its author will mend it; what it learnt before that must not mix with what comes after.
                checkpoint.discard(by_name[name].folder)

    def _teacher_of(self, planned: list[PlannedMember]) -> Artifact | None:
        return next(
            (self._foundry.made[p.artifacts["teacher"]] for p in planned if "teacher" in p.artifacts), None
        )

    def _ready_teacher(self, teacher: Artifact) -> tuple[nn.Module, str, str]:
        """Give the network that answers, its precision, and as what its answers are kept."""
        plan, precision = self.plan, teacher.plan.precision
        network = for_teaching(teacher.network, precision, plan.data.channels, plan.size)
        if plan.compiled:
            network.compile(dynamic=False)
        return network, precision, plan.benchmark.digests

    def _shared_teacher(self, teacher: Artifact, keeping: Keeping, images: Feed) -> SharedTeacher:
        """Give the teacher of a cohort, with a bank where something is kept."""
        plan, say = self.plan, self.reporter.message
        folder, settings = bank_of(plan, teacher.plan, images.seed)
        for line in told_of(keeping, folder):
            say(line)
        if not keeping.kept:
            return SharedTeacher(*self._ready_teacher(teacher), fewest=plan.batch_rows)
        bank = TeacherBank(folder, len(images), settings, say)
        return BankedTeacher(
            *self._ready_teacher(teacher), bank=bank, keeping=keeping, views=images.views,
            steps=images.steps, seed=images.seed, say=say, fewest=plan.batch_rows,
        )  # fmt: skip

    def _sources(
        self, planned: list[PlannedMember], images: Feed, teacher: SharedTeacher | None
    ) -> tuple[dict[str, Source], list[SharedTeacher]]:
        """Make every source of soft labels that a member reads ready, once; one that fails is left out. Give
        the networks that they run beside the teacher, too."""
        plan = self.plan
        sources: dict[str, Source] = {}
        running: dict[str, SharedTeacher] = {}

        def classifier(planned: ArtifactPlan) -> SharedTeacher:
            if planned.key not in running:
                ready = self._ready_teacher(self._classifier(planned))
                running[planned.key] = SharedTeacher(*ready, fewest=plan.batch_rows)
            return running[planned.key]

        for member in planned:
            name = source_name(member.method)
            if name is None or member.method.source is None or name in sources:
                continue
            with self._setting_aside([member]):
                seed_generators(key(member.seed, "fit", name), plan.device)
                source = build_source(member.method.source, member.method.source_options)
                own = {n: plan.artifacts[member.artifacts[n]] for n in source.trains}
                judged = {
                    n: partial(classifier, plan.artifacts[member.artifacts[n]]) for n in source.classifiers
                }
                builders = {n: partial(plan.build_network, plan.benchmark.section(n)) for n in source.builds}
                source.fit(RunWorkshop(
                    images, plan.data, plan.statistics, member.seed,
                    teacher if "teacher" in source.needs else None, source.teacher_fields, own, judged,
                    builders, self._foundry,
                    {n: plan.precision_of(plan.benchmark.section(n)) for n in (*own, *builders)},
                ))  # fmt: skip
                if dict(source.content()) != member.method.source_content:
                    raise KdzooError(
                        f"source {member.method.source!r}: what it reads has changed since it was checked. "
                        f"Run the same command again."
                    )
                sources[name] = source
        return sources, list(running.values())

    def _member(self, planned: PlannedMember, setting: Setting) -> Member:
        plan, seed, method = self.plan, planned.seed, planned.method
        section = plan.benchmark.student
        network = seeded_network(lambda: plan.build_network(section), key(seed, "student")).to(plan.device)
        network, precision = laid_out(network, plan.precision), plan.precision
        if plan.compiled:
            network.compile(dynamic=False)
        with torch.random.fork_rng(devices=[]):
            seed_generators(key(seed, "adapter"), plan.device)
            distiller = build_distiller(method.distiller, setting, method.options).to(plan.device)
        parameters = [*network.parameters(), *(p for p in distiller.parameters() if p.requires_grad)]
        member = Member(
            method.name, network, Distillation(distiller, precision),
            build_optimizer(section.recipe.optimizer, parameters), seed, source_name(method),
            needs_teacher(method),
        )  # fmt: skip
        member.train_mode(True)
        return member

    def _finish(self, planned: PlannedMember, member: Member, cohort: Cohort) -> None:
        with self._setting_aside([planned]):
            write_finished(
                self.plan, planned, member, cohort, command=self.command,
                artifacts={name: self._foundry.made[k].notes for name, k in planned.artifacts.items()},
            )  # fmt: skip


def grouped(members: list[PlannedMember], reporter: Reporter) -> dict[Position, list[PlannedMember]]:
    """Part members into cohorts: each goes on from a checkpoint that it shares with as many others as
    possible.

    Args:
        members: unfinished ones of one seed, whose locks are held.
        reporter: is told of damaged checkpoints.

    Returns:
        Cohorts by the position to start from; those that meanwhile got a record are left out.
    """
    say = reporter.message
    kept = {m.key: checkpoint.usable(m.folder, m.method.name, say) for m in members if m.record() is None}
    left = [m for m in members if m.key in kept]
    found: dict[Position, list[PlannedMember]] = {}
    while left:
        counts = Counter(position for m in left for position in kept[m.key])
        best = max(counts, key=lambda p: (counts[p], p), default=START)
        group = [m for m in left if best in kept[m.key]] or left
        found[best] = group
        left = [m for m in left if m not in group]
    return found


def _resized(split: Split, side: int) -> Split:
    if isinstance(split.images, PictureFiles) or split.images.shape[-1] == side:
        return split
    images: Tensor = resize(torch.from_numpy(split.images), side)
    return replace(split, images=images.numpy())

"""What was planned: a benchmark with its members and artifacts, resolved, checked and keyed."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdzoo.checks import UsageError
from kdzoo.data import Dataset
from kdzoo.data.picture_files import PictureFiles
from kdzoo.methods import Method
from kdzoo.models import build_model, output_shapes
from kdzoo.models.base import find_model
from kdzoo.outputs import Setting, Shapes, norms_of
from kdzoo.results.record import Record
from kdzoo.results.store import read_record
from kdzoo.training.artifacts import ArtifactPlan
from kdzoo.training.benchmark import Benchmark, Section
from kdzoo.training.checkpoint import Position, positions
from kdzoo.training.execution import chosen_precision, has_bf16


@dataclass(frozen=True)
class PlannedMember:
    """One student to be: a method under a seed.

    Attributes:
        method: resolved.
        seed: of the run.
        key: hash of all that its numbers depend on.
        folder: where its record and checkpoints are.
        artifacts: keys of the artifacts that it uses, by name.
        settings: of the method, as its record keeps them (`method_settings`).
    """

    method: Method
    seed: int
    key: str
    folder: Path
    artifacts: Mapping[str, str]
    settings: Mapping[str, Any]

    def record(self) -> Record | None:
        """Read its record; None if it is not finished.

        Raises:
            UsageError: the record is there but damaged, or another member's.
        """
        found = read_record(self.folder)
        if found is not None and found.key != self.key:
            raise UsageError(
                f"{self.folder / 'record.json'}: it is the record of another member (key {found.key[:8]}, "
                f"not "
                f"{self.key[:8]}). Delete that folder, or choose another --work-dir."
            )
        return found

    @property
    def position(self) -> Position | None:
        """Give the newest position at which it has a checkpoint."""
        return next(iter(positions(self.folder)), None)


@dataclass(frozen=True)
class Plan:
    """A benchmark, its methods and seeds, with everything resolved.

    Attributes:
        benchmark: settings.
        data: images, with the validation part split off.
        statistics: channel means and standard deviations of the training images.
        seeds: of the runs.
        methods: resolved, in the order asked for.
        members: for each seed, each method.
        artifacts: what members need, by key.
        protocol: what a table's rows have in common, as a mapping.
        work_dir: where everything is kept, as the user wrote it.
        device: where training happens.
        data_root: where the user keeps the data, None for the usual places.
        remarks: what the user should hear before training.
        reloadable: whether the benchmark's data set loads these images; not those that were given as arrays.
        compiled: whether torch compiles the passes of students and teacher.
        bank: where teacher banks are; None for the work directory.
        bank_limit: bytes that a teacher bank may take; 0 for none.
    """

    benchmark: Benchmark
    data: Dataset
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    seeds: tuple[int, ...]
    methods: tuple[Method, ...]
    members: tuple[PlannedMember, ...]
    artifacts: Mapping[str, ArtifactPlan]
    protocol: Mapping[str, Any]
    work_dir: Path
    device: torch.device
    data_root: Path | None
    remarks: tuple[str, ...]
    reloadable: bool = True
    compiled: bool = False
    bank: Path | None = None
    bank_limit: int = 0

    @property
    def size(self) -> int:
        """Height and width of the images that networks see, in pixels."""
        return self.benchmark.views.output_size(self.data.size)

    @property
    def short_side(self) -> int:
        """Give the pixels to which a picture's short side is brought before its centre is cut out."""
        images = self.data.train.images
        return images.short_side if isinstance(images, PictureFiles) else self.data.size

    @property
    def batch_rows(self) -> int:
        """Count the images of a batch of training, but for the last of an epoch, which may have fewer."""
        return min(self.benchmark.student.recipe.batch_size, len(self.data.train))

    def pending(self) -> list[PlannedMember]:
        """List the members without a record."""
        return [m for m in self.members if m.record() is None]

    def precision_of(self, section: Section) -> str:
        """Give the precision of a section's network, "float32" or "bf16"."""
        asked = self.benchmark.precision
        if asked != "auto":
            return asked
        if not has_bf16(self.device):
            # Building even a network without numbers takes a while.
            return "float32"
        with torch.device("meta"):
            return chosen_precision(self.build_network(section), self.device)

    @property
    def precision(self) -> str:
        """The student's."""
        return self.precision_of(self.benchmark.student)

    @property
    def computed(self) -> str:
        """Say how the student's passes are computed, as records do: its precision, and whether compiled."""
        return f"{self.precision}, compiled" if self.compiled else self.precision

    def teacher_pass(self) -> dict[str, Any]:
        """Describe how a teacher's answers are computed, as records and keys keep it; its precision stands
        with its artifact."""
        return (
            {"batch_norm": "folded", "layout": "channels_last"}
            | ({"compiled": True} if self.compiled else {})
            | ({"digests": self.benchmark.digests} if self.benchmark.digests != "own" else {})
        )

    def build_network(self, section: Section) -> torch.nn.Module:
        """Build a section's network from torch's default generator."""
        return build_model(
            section.network, num_classes=len(self.data.classes), channels=self.data.channels, size=self.size,
            options=section.options,
        )  # fmt: skip


def described(plan: Plan, section: Section) -> tuple[Shapes, torch.nn.Module]:
    """Give the shapes of a section's network, and the network itself without numbers.

    Args:
        plan: benchmark and data.
        section: of the benchmark.
    """
    build = find_model(section.network)
    # Members of families come from elsewhere, too.
    own = getattr(build, "__module__", "").startswith("kdzoo.models.") and not inspect.ismethod(build)
    describe = _known if own else _described
    options = tuple(section.options.items())
    return describe(build, section.network, options, len(plan.data.classes), plan.data.channels, plan.size)


def _described(
    build: Callable[..., torch.nn.Module], name: str, options: tuple[tuple[str, Any], ...],
    classes: int, channels: int, size: int,
) -> tuple[Shapes, torch.nn.Module]:  # fmt: skip
    with torch.device("meta"):
        network = build_model(name, num_classes=classes, channels=channels, size=size, options=dict(options))
        return output_shapes(network, channels, size), network


# Planning asks for the same ones again and again, and without numbers, too, a pass takes a while. What comes
# from outside may have been edited meanwhile; what builds a network is in the key, so that a name that was
# registered again is another's.
_known = functools.lru_cache(maxsize=32)(_described)


def setting_of(plan: Plan, teacher: bool) -> Setting:
    """Describe the pair of networks to methods, from shapes alone: nothing is initialised or run on data.

    The teacher's classifier and batch norms have no numbers yet, either.

    Args:
        plan: benchmark and data.
        teacher: whether any method needs one; without need it is not even built.
    """
    shapes, network = described(plan, plan.benchmark.section("teacher")) if teacher else (None, None)
    return Setting(
        student=described(plan, plan.benchmark.student)[0],
        teacher=shapes,  # type: ignore[arg-type]
        # Methods get it, and the network is kept.
        teacher_head=copy.deepcopy(getattr(network, "classifier", None)),
        teacher_norms=None if network is None else norms_of(network),
        classes=len(plan.data.classes),
        labels=torch.from_numpy(plan.data.train.labels),
        positions=None if plan.data.train.positions is None else torch.from_numpy(plan.data.train.positions),
        loaded=plan.data.loaded,
    )

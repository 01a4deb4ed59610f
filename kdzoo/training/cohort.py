"""A cohort: members that train side by side on the same batches, with one data pipeline and one teacher pass.

A step, from top to bottom: one batch of keyed views; soft labels and digests, each once, from one teacher
pass; then member by member its own forward pass, loss, backward pass and optimizer step, so that one graph
is alive at a time. Whatever happens to one member, the numbers of the others stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdzoo.checks import KdzooError
from kdzoo.data.pipeline import Pipeline
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress, SoftLabels
from kdzoo.sources.base import Source
from kdzoo.training.member import Member
from kdzoo.training.networks import SharedTeacher


class Cohort(nn.Module):
    """Members of one benchmark and seed, in the form that mmengine's Runner trains.

    Args:
        members: what is trained; their order changes no number.
        images: the training images.
        epochs: how many there will be.
        teacher: shared by all; None where no member needs one.
        sources: ready sources of soft labels, by the name that members call them.

    Attributes:
        seconds: time spent on what members share (batches, teacher, soft labels, digests).
        wall: time of the epochs of this start, evaluation included.
        epochs_run: epochs that ended in this start.
    """

    def __init__(
        self, members: list[Member], images: Pipeline, epochs: int, teacher: SharedTeacher | None = None,
        sources: Mapping[str, Source] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.members = members
        self.images = images
        self.epochs = epochs
        self.teacher = teacher
        self.sources = dict(sources or {})
        self.seconds = self.wall = 0.0
        self.epochs_run = 0

    @property
    def active(self) -> list[Member]:
        """The members that have neither diverged nor failed."""
        return [m for m in self.members if m.status == "training"]

    def train_step(self, data: tuple[int, int], optim_wrapper: Any = None) -> dict[str, Tensor]:
        """Train every active member on one batch.

        Args:
            data: epoch and step, from which the batch follows.
            optim_wrapper: the Runner's; each member steps its own part of it.

        Returns:
            Nothing: mmengine would wait for the device to log it.
        """
        epoch, step = data
        progress = Progress(epoch, self.epochs, step, self.images.steps)
        shared = self._share(epoch, step)
        for member in self.active:
            try:
                member.step(shared.batch_of(member), shared.guides[member], progress)
            except Exception as error:
                self.set_aside(member, error)
            written = shared.written()
            if written:
                fault = SharedWriteError(member.name, written)
                # What the write broke in the backward pass is only its consequence.
                fault.__cause__, member.fault = member.fault, None
                self.set_aside(member, fault)
                # Batches are functions of their position: what was spoilt is simply made again.
                shared = self._share(epoch, step)
        return {}

    def set_aside(self, member: Member, error: BaseException) -> None:
        """Take a member that failed out of training; the first error that it met is kept."""
        member.status = "failed"
        member.fault = member.fault or error

    def _share(self, epoch: int, step: int) -> Shared:
        began = time.perf_counter()
        with torch.no_grad():
            shared = Shared(self.images.batch(epoch, step), self.teacher, self.sources)
            for member in self.active:
                try:
                    shared.add(member)
                except Exception as error:
                    self.set_aside(member, error)
        shared.watch()
        self.seconds += time.perf_counter() - began
        return shared


class Shared:
    """What the members of a cohort share in one step; each thing is made once, when the first member needs
    it.

    Args:
        batch: the step's images and labels.
        teacher: runs once for the batch, if at all.
        sources: of soft labels, by name.

    Attributes:
        guides: what each member gets.
    """

    def __init__(self, batch: Batch, teacher: SharedTeacher | None, sources: Mapping[str, Source]) -> None:
        self.guides: dict[Member, Guide] = {}
        self._batch = batch
        self._teacher = teacher
        self._sources = sources
        self._soft_labels: dict[str, SoftLabels] = {}
        self._digests: dict[Any, dict[str, Tensor]] = {}
        self._versions: list[tuple[str, Tensor, int]] = []

    def batch_of(self, member: Member) -> Batch:
        """Give the batch as far as the member's method declares that it needs it."""
        distiller = member.distiller
        indices = distiller is not None and "indices" in distiller.needs
        return self._batch if indices else self._batch._replace(indices=None)

    def add(self, member: Member) -> None:
        """Make the member's guide, or find its parts already made for another."""
        distiller, digest = member.distiller, {}
        soft_labels: Any = None
        if member.source is not None:
            if member.source not in self._soft_labels:
                self._soft_labels[member.source] = self._sources[member.source](self._batch)
            soft_labels = self._soft_labels[member.source]
        if distiller is not None and distiller.needs_teacher():
            # Members share a digest if the same function makes it from the same options and fields.
            options = tuple((name, distiller.options[name]) for name in distiller.digest_options)
            key = (type(distiller).digest, options, distiller.needs)
            if key not in self._digests:
                self._digests[key] = distiller.digest(self._teacher_output())
            digest = self._digests[key]
        self.guides[member] = Guide(soft_labels, dict(digest))

    def _teacher_output(self) -> ModelOutput:
        assert self._teacher is not None
        return self._teacher(self._batch)

    def watch(self) -> None:
        """Remember the version counter of every shared tensor; in-place operations raise it, without a
        device sync. What goes around torch's own operations (`x.data`, numpy) is not seen."""
        things = {"batch": self._batch, "soft_labels": self._soft_labels, "teacher": self._digests}
        self._versions = [(name, tensor, tensor._version) for name, tensor in _tensors(things)]

    def written(self) -> list[str]:
        """Name the shared tensors that somebody has written into since `watch`."""
        return [name for name, tensor, version in self._versions if tensor._version != version]


class SharedWriteError(KdzooError):
    """A method wrote into what it shares with the others.

    Args:
        method: its canonical name.
        written: the tensors, by name.
    """

    def __init__(self, method: str, written: list[str]) -> None:
        super().__init__(
            f"method {method!r} wrote into {', '.join(written)}, which all methods of the cohort share. "
            "Work on a copy: use x + y in place of x += y, or x.clone() first."
        )


def _tensors(thing: Any, name: str = "", seen: frozenset[int] = frozenset()) -> Iterator[tuple[str, Tensor]]:
    """Find the tensors in a step's things; soft labels are whatever a source made them, so attributes are
    looked at."""
    if isinstance(thing, Tensor):
        yield name, thing
        return
    if isinstance(thing, tuple) and hasattr(thing, "_asdict"):
        parts = thing._asdict()
    elif isinstance(thing, (tuple, list)):
        parts = dict(enumerate(thing))
    elif isinstance(thing, dict):
        parts = thing
    else:
        parts = {k.lstrip("_"): v for k, v in getattr(thing, "__dict__", {}).items()}
    if id(thing) in seen or isinstance(thing, nn.Module):
        return
    for key, value in parts.items():
        label = f"{name}.{key}".lstrip(".") if isinstance(key, (str, int)) else name
        yield from _tensors(value, label, seen | {id(thing)})

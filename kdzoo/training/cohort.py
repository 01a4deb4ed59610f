"""A cohort: members that train side by side on the same batches, with one data pipeline and one teacher pass.

A step, from top to bottom: one batch of keyed views; soft labels and digests, each once, from one teacher
pass; then member by member its own forward pass, loss, backward pass and optimizer step, so that one graph
is alive at a time. Whatever happens to one member, the numbers of the others stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdzoo.data.pipeline import Feed
from kdzoo.keys import key
from kdzoo.outputs import Progress
from kdzoo.sources.base import Source, check_soft_labels
from kdzoo.training.ahead import Ahead
from kdzoo.training.member import Member
from kdzoo.training.networks import SharedTeacher
from kdzoo.training.recording import Recorder
from kdzoo.training.sharing import Shared, SharedWriteError
from kdzoo.training.stills import Stills


class Cohort(nn.Module):
    """Members of one benchmark and seed, in the form that mmengine's Runner trains.

    Args:
        members: what is trained; their order changes no number.
        images: the training images.
        epochs: how many there will be.
        teacher: shared by all; None where no member needs one.
        sources: ready sources of soft labels, by the name that members call them.
        seed: of what sources and digests draw.
        classes: K; None leaves what sources give unchecked.
        recorder: lets the device repeat members' steps; None runs them as they come.
        classifiers: other networks that sources run on a batch.

    Attributes:
        seconds: time spent on what members share (batches, teacher, soft labels, digests).
        wall: time of the epochs of this start, evaluation included.
        epochs_run: epochs that ended in this start.
        steps_run: steps of this start.
    """

    def __init__(
        self, members: list[Member], images: Feed, epochs: int, teacher: SharedTeacher | None = None,
        sources: Mapping[str, Source] | None = None, seed: int = 0, classes: int | None = None,
        recorder: Recorder | None = None, classifiers: Sequence[SharedTeacher] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.members = members
        self.images = images
        self.epochs = epochs
        self.teacher = teacher
        self.sources = dict(sources or {})
        self._running = [*([] if teacher is None else [teacher]), *classifiers]
        self.seed = seed
        self.seconds = self.wall = 0.0
        self.epochs_run = self.steps_run = 0
        self._ahead = Ahead(images, teacher, epochs)
        self._unseen = set() if classes is None else set(self.sources)
        self._classes = classes
        if recorder is not None:
            stills = Stills()
            for member in members:
                member.repeat_by(stills, recorder)
        self._passes_before = 0 if teacher is None else teacher.passes

    @property
    def teacher_passes(self) -> int:
        """Count from the cohort's first step: what sources did with the teacher before is not training."""
        return 0 if self.teacher is None else self.teacher.passes - self._passes_before

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
            with member.setting_aside():
                member.step(shared.batch_of(member), shared.guides[member], progress)
            if self._spoilt(member, shared):
                # Batches are functions of their position: what was written into is simply made again.
                shared = self._share(epoch, step)
        self.steps_run += 1
        if self.teacher is not None and step + 1 == self.images.steps:
            self.teacher.end_epoch(epoch)
        return {}

    def close(self) -> None:
        """End what works ahead, and let go of the teacher's bank."""
        self._ahead.close()
        if self.teacher is not None:
            self.teacher.close()

    def _share(self, epoch: int, step: int) -> Shared:
        """Make the step's batch, and soft labels and digests for all members that are left."""
        began = time.perf_counter()
        draws = key(self.seed, "shared", epoch, step)
        with torch.no_grad():
            batch, prepared = self._ahead.take(epoch, step)
            if self.teacher is not None:
                self.teacher.begin(batch, epoch, step, prepared)
            shared = Shared(batch, self.teacher, self.sources, draws)
            for member in self.active:
                with member.setting_aside():
                    shared.add(member)
                    self._look_at_first(shared, member)
                if self._spoilt(member, shared):
                    return self._share(epoch, step)
            for network in self._running:
                network.end_step()
            shared.settle()
        self.seconds += time.perf_counter() - began
        return shared

    def _look_at_first(self, shared: Shared, member: Member) -> None:
        """Check the first soft labels of a source in this start; that waits for the device, so no others."""
        if member.source in self._unseen and self._classes is not None:
            size = len(shared.batch_of(member).labels), self._classes
            check_soft_labels(self.sources[member.source], shared.guides[member].soft_labels, size)
            self._unseen.discard(member.source)

    def _spoilt(self, member: Member, shared: Shared) -> bool:
        """Set a member aside if something shared was written into, and name it."""
        written = shared.written()
        if written:
            fault = SharedWriteError(member.name, written)
            # What the write broke elsewhere, for example in the backward pass, is only its consequence.
            fault.__cause__ = member.fault
            member.status, member.fault = "failed", fault
        return bool(written)

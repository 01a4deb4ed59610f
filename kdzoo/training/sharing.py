"""What the members of a cohort share in one step, made once each, and watched: nobody may write into it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils.weak import TensorWeakRef

from kdzoo.checks import KdzooError
from kdzoo.outputs import Batch, Guide, SoftLabels
from kdzoo.sources.base import Source
from kdzoo.training.member import Member
from kdzoo.training.networks import SharedTeacher
from kdzoo.training.parts import parts
from kdzoo.training.runtime import seed_generators


class Shared:
    """A batch, and the soft labels and digests that members need for it.

    Args:
        batch: the step's images and labels.
        teacher: runs once for the batch, if at all.
        sources: of soft labels, by name.
        draws: seeds whatever a source or a digest draws, so that nothing depends on who asked before.

    Attributes:
        guides: what each member gets.
    """

    def __init__(
        self, batch: Batch, teacher: SharedTeacher | None, sources: Mapping[str, Source], draws: int
    ) -> None:
        self.guides: dict[Member, Guide] = {}
        self._batch = batch
        self._teacher = teacher
        self._sources = sources
        self._draws = draws
        self._soft_labels: dict[str, SoftLabels] = {}
        self._versions: dict[int, tuple[str, TensorWeakRef, int]] = {}
        self._known: dict[int, Any] = {}
        # Until all is made, so that no other thing gets its place in memory.
        self._held: list[Tensor] = []
        self._watch("batch", batch)

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
            soft_labels = self._soft_labels_of(member.source)
        if distiller is not None and distiller.needs_teacher():
            teacher = self._asked_teacher()
            # Watched before the method's digest sees it, which might write into it.
            teacher.ready(self._batch, distiller)
            self._watch_teacher()
            seed_generators(self._draws, self._batch.images.device)
            digest = teacher.digest(self._batch, distiller)
            self._watch_teacher()
        self.guides[member] = Guide(soft_labels, copy.copy(digest))

    def settle(self) -> None:
        """Let go of what was made on the way and nobody has, such as a teacher's stages. What somebody has,
        itself or a view of it, stays watched, wherever it may be."""
        self._known, self._held = {}, []

    def _soft_labels_of(self, source: str) -> SoftLabels:
        if source not in self._soft_labels:
            needs, fields = self._sources[source].needs, self._sources[source].teacher_fields
            if "teacher" in needs and (fields is None or fields):
                # Made and watched before the source sees it, who might write into it.
                self._asked_teacher()(self._batch, fields)
                self._watch_teacher()
            seed_generators(self._draws, self._batch.images.device)
            batch = self._batch if "indices" in needs else self._batch._replace(indices=None)
            self._soft_labels[source] = self._sources[source](batch)
            self._watch("soft_labels", self._soft_labels[source])
        return self._soft_labels[source]

    def _asked_teacher(self) -> SharedTeacher:
        if self._teacher is None:
            raise ValueError("a method that reads a teacher must declare it in needs")
        return self._teacher

    def _watch_teacher(self) -> None:
        for thing in self._asked_teacher().made():
            # Held, so that no other thing gets its place in memory.
            if id(thing) not in self._known:
                self._known[id(thing)] = thing
                self._watch("teacher", thing)

    def _watch(self, name: str, thing: Any) -> None:
        """Remember the version counters of tensors that are new; in-place operations raise them, without a
        device sync. What goes around torch's own operations (`x.data`, numpy) is not seen."""
        for label, tensor in parts(thing, name):
            # Tensors made under inference_mode refuse in-place operations outside of it by themselves.
            seen = id(tensor) in self._versions
            if isinstance(tensor, Tensor) and not tensor.is_inference() and not seen:
                self._held.append(tensor)
                self._versions[id(tensor)] = label, TensorWeakRef(tensor), tensor._version

    def written(self) -> list[str]:
        """Name the shared tensors that somebody has written into."""
        there = ((name, tensor(), version) for name, tensor, version in self._versions.values())
        return [name for name, tensor, version in there if tensor is not None and tensor._version != version]


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

"""The teacher's own scores, the soft labels of all classic distillation."""

from __future__ import annotations

from kdzoo.outputs import Batch, SoftLabels, scores
from kdzoo.registry import SOURCES
from kdzoo.sources.base import Source, Workshop


@SOURCES.register("teacher")
class Teacher(Source):
    """The teacher's logits on the very view that the student sees; the temperature divides them."""

    needs = frozenset({"teacher"})
    teacher_fields = frozenset({"logits"})
    gives_scores = True
    paper = "Hinton, Vinyals and Dean 2015, Distilling the Knowledge in a Neural Network, https://arxiv.org/abs/1503.02531"

    def fit(self, workshop: Workshop) -> None:
        """Take hold of the shared teacher."""
        self._teacher = workshop.teacher

    def __call__(self, batch: Batch) -> SoftLabels:
        """Give the teacher's scores."""
        return scores(self._teacher(batch, self.teacher_fields).logits)

"""Tf-KD by self-training: the student itself, trained on the labels first, is its own teacher.

Yuan, Tay, Li, Wang and Feng 2020, "Revisiting Knowledge Distillation via Label Smoothing Regularization",
CVPR, https://arxiv.org/abs/1909.11723
"""

from __future__ import annotations

from kdzoo.outputs import Batch, SoftLabels, scores
from kdzoo.registry import SOURCES
from kdzoo.sources.base import Source, Workshop


@SOURCES.register("tfkd_self")
class TfKDSelf(Source):
    """The scores of a network like the student, trained on the labels alone by the student's recipe; the
    temperature divides them.

    Paper: the loss has no T^2; here: `kd:temperature=20+tfkd_self` is the paper's loss times T^2.
    """

    teacher_fields = frozenset()
    classifiers = ("student",)
    gives_scores = True
    paper = (
        "Yuan, Tay, Li, Wang and Feng 2020, Revisiting Knowledge Distillation via Label Smoothing "
        "Regularization, CVPR, https://arxiv.org/abs/1909.11723"
    )

    def fit(self, workshop: Workshop) -> None:
        """Train the student for the first time, or fetch it."""
        self._student = workshop.classifier("student")

    def __call__(self, batch: Batch) -> SoftLabels:
        """Give its scores on the very view that the student sees."""
        return scores(self._student(batch).logits)

"""Tf-KD by regularisation: a teacher made by hand, right with a fixed probability and else equally wrong.

Yuan, Tay, Li, Wang and Feng 2020, "Revisiting Knowledge Distillation via Label Smoothing Regularization",
CVPR, https://arxiv.org/abs/1909.11723
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from kdzoo.checks import Interval, UsageError
from kdzoo.outputs import Batch, Setting, SoftLabels, scores
from kdzoo.registry import SOURCES
from kdzoo.sources.base import Source, Workshop

Correct = Annotated[float, Interval(low=0, high=1, open_low=True)]


def virtual_teacher(classes: int, correct: float) -> Tensor:
    """Give the virtual teacher's outputs: a for the class itself, (1 - a) / (K - 1) for each other.

    Args:
        classes: K, at least 2.
        correct: a, in (0, 1].

    Returns:
        [K, K] float32; row i is what it says of class i.

    Source: Yuan et al. 2020, eq. 9.
    """
    rows = torch.full((classes, classes), (1 - correct) / (classes - 1))
    return rows.fill_diagonal_(correct)


@SOURCES.register("tfkd_reg")
class TfKDReg(Source):
    """The virtual teacher's outputs, which a temperature divides as if they were logits.

    They lie between 0 and 1, so that its softened labels are nearly uniform: at T = 20 and 10 classes the
    true one has 0.105. Paper: the loss has no T^2; authors' code: it is multiplied by a number of the user's;
    here: `kd:temperature=20+tfkd_reg` is the paper's loss times T^2.

    Args:
        correct: a, what the virtual teacher gives the true class. Default: the paper's, which asks for 0.9 at
            least and uses 0.99.
    """

    teacher_fields = frozenset()
    gives_scores = True
    paper = (
        "Yuan, Tay, Li, Wang and Feng 2020, Revisiting Knowledge Distillation via Label Smoothing "
        "Regularization, CVPR, https://arxiv.org/abs/1909.11723"
    )

    def __init__(self, *, correct: Correct = 0.99) -> None:
        self.correct = correct

    def check(self, setting: Setting) -> None:
        """Refuse a single class, beside which there is no other."""
        if setting.classes < 2:
            raise UsageError(
                f"tfkd_reg: the data must have at least 2 classes, got {setting.classes}. Add a class."
            )

    def fit(self, workshop: Workshop) -> None:
        """Make the rows."""
        self._rows = virtual_teacher(workshop.num_classes, self.correct).to(workshop.device)

    def __call__(self, batch: Batch) -> SoftLabels:
        """Give each sample the row of its class, as scores."""
        return scores(self._rows[batch.labels])

"""Class means of a teacher's outputs: between its own soft labels and ReffAKD's one row a class.

Control of this project. A teacher's label says of one image which other classes it resembles; its class means
say that of the class alone, as ReffAKD's labels do.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kdzoo.checks import Positive, UsageError
from kdzoo.outputs import Batch, Setting
from kdzoo.registry import SOURCES
from kdzoo.sources.base import ClassSource, Workshop

# Images that the teacher sees at a time: as many as in a step of the paper's recipe.
PORTION = 256


@SOURCES.register("teacher_mean")
class TeacherMean(ClassSource):
    """The mean of the teacher's soft labels over each class's training images: is class-level enough?

    Args:
        temperature: divides the teacher's scores before its softmax. Default: 4, of the paper's Table 8.
        views: whether the teacher sees the training images as they are, or one augmented view of each.
            Default: ours, clean, since a mean over a class needs no augmentation.
    """

    needs = frozenset({"teacher"})
    paper = "control of this project"

    def __init__(
        self, *, temperature: Positive = 4.0, views: Literal["augmented", "clean"] = "clean"
    ) -> None:
        self.temperature = temperature
        self.views = views

    def check(self, setting: Setting) -> None:
        """Refuse a class without training images, which has no mean."""
        counts = torch.bincount(setting.labels, minlength=setting.classes)
        if int(counts.min()) < 1:
            empty = (counts < 1).nonzero().flatten().tolist()
            raise UsageError(
                f"teacher_mean: every class needs a training image, classes {empty} have none. Add images."
            )

    @torch.no_grad()
    def rows(self, workshop: Workshop) -> Tensor:
        """Run the teacher over all training images, and average by class in float64."""
        classes = torch.arange(workshop.num_classes, device=workshop.device)
        sums = torch.zeros(len(classes), len(classes), dtype=torch.float64, device=workshop.device)
        for start in range(0, len(workshop.labels), PORTION):
            chosen = np.arange(start, min(start + PORTION, len(workshop.labels)))
            images = workshop.images(
                chosen, purpose="teacher_mean", draw=0, augmented=self.views == "augmented"
            )
            indices = torch.from_numpy(chosen).to(workshop.device)
            labels = torch.from_numpy(workshop.labels[chosen]).to(workshop.device)
            logits = workshop.teacher(Batch(images, labels, indices)).logits.double()
            member = (classes[:, None] == labels).double()
            sums += member @ torch.softmax(logits / self.temperature, dim=1)
        # Each image adds 1 to its class's row, so a row's sum is the number of its images.
        return sums / sums.sum(dim=1, keepdim=True)

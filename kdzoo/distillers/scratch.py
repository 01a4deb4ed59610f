"""No distillation: cross-entropy with the labels alone, the baseline that every method is paired with."""

from __future__ import annotations

from torch import Tensor

from kdzoo.distillers.base import Distiller
from kdzoo.outputs import Batch, Guide, ModelOutput, Progress
from kdzoo.registry import DISTILLERS


@DISTILLERS.register("scratch")
class Scratch(Distiller):
    """The student on its own; it adds no term to the labels' cross-entropy."""

    paper = "none: training on the labels alone"

    def forward(
        self, student: ModelOutput, guide: Guide, batch: Batch, progress: Progress
    ) -> dict[str, Tensor]:
        """Add nothing."""
        return {}

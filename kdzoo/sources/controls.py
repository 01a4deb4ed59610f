"""Controls: soft labels that leave something out, so that a comparison can tell what mattered."""

from __future__ import annotations

import torch

from kdzoo.outputs import Batch, SoftLabels, probabilities
from kdzoo.registry import SOURCES
from kdzoo.sources.base import Source, Workshop


@SOURCES.register("uniform")
class Uniform(Source):
    """1/K for every class: is it any label at all that helps?"""

    paper = "control of this project"

    def fit(self, workshop: Workshop) -> None:
        """Make the one row that all samples share."""
        self._row = torch.full((workshop.num_classes,), 1.0 / workshop.num_classes, device=workshop.device)

    def __call__(self, batch: Batch) -> SoftLabels:
        """Give the same distribution to every sample."""
        return probabilities(self._row.repeat(len(batch.labels), 1))

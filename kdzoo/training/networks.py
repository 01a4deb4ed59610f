"""Running a network: its precision, its dropout, and the one teacher that a whole cohort shares."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdzoo.outputs import Batch, ModelOutput, widened


def run_network(network: nn.Module, images: Tensor, precision: str) -> ModelOutput:
    """Run a network in a precision and return its output in float32, so that every loss is computed in
    float32.

    Args:
        network: returns a `ModelOutput`.
        images: [N, C, H, W] float32.
        precision: "float32" or "bf16" (autocast).
    """
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        output: ModelOutput = network(images)
    return widened(output)


class SharedTeacher:
    """A teacher that runs once for each batch, however many sources and methods ask.

    Args:
        network: the teacher; it is put into evaluation mode and stays there.
        precision: "float32" or "bf16".

    Attributes:
        passes: how many batches it ran on.
    """

    def __init__(self, network: nn.Module, precision: str) -> None:
        self.network = network.eval().requires_grad_(False)
        self.passes = 0
        self._precision = precision
        self._last: tuple[Tensor, ModelOutput] | None = None

    def __call__(self, batch: Batch) -> ModelOutput:
        """Give the teacher's output for a batch, without gradients."""
        if self._last is None or self._last[0] is not batch.images:
            self._last = (batch.images, self._forward(batch.images))
            self.passes += 1
        return self._last[1]

    @torch.no_grad()
    def _forward(self, images: Tensor) -> ModelOutput:
        # Kernels for a batch of one round differently; as part of a larger batch the sample's bits are the
        # usual ones.
        if len(images) > 1:
            return run_network(self.network, images, self._precision)
        logits, embedding, stages, preactivations = run_network(
            self.network, images.repeat(2, 1, 1, 1), self._precision
        )
        return ModelOutput(*(_first(value) for value in (logits, embedding, stages, preactivations)))


def _first(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(v[:1] for v in value)
    return None if value is None else value[:1]

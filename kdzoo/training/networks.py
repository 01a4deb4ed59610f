"""Running a network: its precision, its dropout, and the one teacher that a whole cohort shares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from kdzoo.distillers.base import Digest, Distiller
from kdzoo.outputs import Batch, ModelOutput, mapped, widened

Digests = dict[Any, dict[str, Tensor]]


def run_network(
    network: nn.Module, images: Tensor, precision: str, *, channels_last: bool | None = None
) -> ModelOutput:
    """Run a network in a precision and return its output in float32, so that every loss is computed in
    float32.

    Args:
        network: returns a `ModelOutput`.
        images: [N, C, H, W] float32.
        precision: "float32" or "bf16" (autocast).
        channels_last: the layout of the images in memory; None takes that of the precision
            (`execution.laid_out`).
    """
    if precision == "bf16" if channels_last is None else channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        output: ModelOutput = network(images)
    return widened(output)


# Fields of an output that are no maps.
SMALL = frozenset({"logits", "embedding"})


class SharedTeacher:
    """A teacher that runs once for each batch, however many sources and methods ask.

    Args:
        network: the teacher, best made by `execution.for_teaching`; it is put into evaluation mode and stays
            there.
        precision: "float32" or "bf16".
        digests: "own", or "float16": what methods keep of the teacher is rounded to it.
        fewest: images of a pass; a batch of fewer is filled up with its own.

    Attributes:
        passes: how many batches it ran on.
    """

    def __init__(self, network: nn.Module, precision: str, digests: str = "own", *, fewest: int = 2) -> None:
        self.network = network.eval().requires_grad_(False)
        self.passes = 0
        self._precision = precision
        self._fewest = fewest
        self._rounded = digests == "float16"
        self._last: tuple[Tensor, ModelOutput] | None = None
        # Of the last batch, once the step's members have all that they need.
        self._left: tuple[Tensor, ModelOutput] | None = None
        self._digests: Digests = {}

    def prepare(self, epoch: int, step: int, indices: npt.NDArray[Any]) -> Any:
        """Fetch what a batch needs ahead of its step, maybe in another thread; a running teacher needs
        nothing."""

    def begin(self, batch: Batch, epoch: int, step: int, prepared: Any = None) -> None:
        """Go on to a batch: what was made for the one before is let go of.

        Args:
            batch: of the step.
            epoch: counts from 0.
            step: counts from 0.
            prepared: what `prepare` gave for it.
        """
        self._digests, self._left = {}, None

    def __call__(self, batch: Batch, fields: frozenset[str] | None = None) -> ModelOutput:
        """Give the teacher's output for a batch, without gradients.

        Args:
            batch: of the step, or any other.
            fields: all that is read of it, "logits" and "embedding", which need not run the teacher if they
                are kept; None for everything as it comes.
        """
        return self._live(batch) if fields is None else self._fields(batch, fields)

    def ready(self, batch: Batch, distiller: Distiller) -> None:
        """Make what a method's digest is made of, if it is not made already.

        Args:
            batch: of the step.
            distiller: the method; it reads a teacher.
        """
        if any(digest_key(reader) not in self._digests for reader in teacher_readers(distiller).values()):
            self._live(batch)

    def digest(self, batch: Batch, distiller: Distiller) -> dict[str, Tensor]:
        """Give what a method keeps of the teacher; methods that keep the same get the same tensors.

        Args:
            batch: of the step.
            distiller: the method; it reads a teacher.
        """
        found: dict[str, Tensor] = {}
        for prefix, reader in teacher_readers(distiller).items():
            key = digest_key(reader)
            if key not in self._digests:
                self._digests[key] = self._digest(batch, reader)
            if not prefix:
                return self._digests[key]
            found |= {f"{prefix}{name}": tensor for name, tensor in self._digests[key].items()}
        return Digest(found)

    def made(self) -> Iterator[Any]:
        """List what was made for the batch so far, which many share."""
        if self._last is not None:
            yield self._last[1]
        yield from self._digests.values()

    def end_step(self) -> None:
        """Hear that all is made that the step's members need. Stages are let go of, which are many times what
        methods keep; logits and embedding stay, for soft labels that ask for them as late as they are used.
        """
        if self._last is not None:
            images, output = self._last
            self._last, self._left = None, (images, ModelOutput(output.logits, output.embedding))

    def end_epoch(self, epoch: int) -> None:
        """Hear that an epoch's last step is done."""

    def close(self) -> None:
        """Let go of whatever is kept open."""

    def _digest(self, batch: Batch, distiller: Distiller) -> dict[str, Tensor]:
        if is_kept(distiller):
            return self._rounded_rows(distiller.detached_digest(self._live(batch)))
        # What depends on a whole batch is made of what is kept of its samples.
        return distiller.detached_digest(self._fields(batch, distiller.needs))

    def _fields(self, batch: Batch, names: frozenset[str]) -> ModelOutput:
        left = self._left_of(batch)
        made = left if left is not None and names <= SMALL else self._live(batch)
        # What was not asked for is not there, as where it comes from a bank.
        read = {name: value for name, value in made._asdict().items() if name in names}
        output = ModelOutput(**{"logits": None, **read})
        return ModelOutput(*mapped(output, lambda t: t.half().float())) if self._rounded else output

    def _rounded_rows(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        if self._rounded:
            for name, tensor in rows.items():
                rows[name] = tensor.half().float() if tensor.is_floating_point() else tensor
        return rows

    def _live(self, batch: Batch) -> ModelOutput:
        if self._left_of(batch) is not None:
            # Asked for late, when nobody watches over what is shared any more: everyone's own.
            self.passes += 1
            return self._forward(batch.images)
        if self._last is None or self._last[0] is not batch.images:
            self._last = (batch.images, self._forward(batch.images))
            self.passes += 1
        return self._last[1]

    def _left_of(self, batch: Batch) -> ModelOutput | None:
        return self._left[1] if self._left is not None and self._left[0] is batch.images else None

    @torch.no_grad()
    def _forward(self, images: Tensor) -> ModelOutput:
        # Kernels for few images round differently (of a wide network for up to a dozen, measured); as part of
        # a larger batch a sample's bits are the usual ones, whichever batch it is in.
        count = len(images)
        if count < self._fewest:
            images = images.repeat(-(-self._fewest // count), 1, 1, 1)[: self._fewest]
        output = run_network(self.network, images, self._precision, channels_last=True)
        return ModelOutput(*mapped(output, lambda tensor: tensor[:count])) if count < len(images) else output


def teacher_readers(distiller: Distiller | None) -> dict[str, Distiller]:
    """Give those of a method's readers that read a teacher; none of what is no method.

    Args:
        distiller: the method.
    """
    readers = {} if distiller is None else distiller.readers()
    return {prefix: reader for prefix, reader in readers.items() if reader.needs_teacher()}


def is_kept(distiller: Distiller) -> bool:
    """Say whether a method's digest can be kept sample by sample, as something of its own beside the
    teacher's fields."""
    return distiller.digest_scope == "sample" and type(distiller).digest is not Distiller.digest


def digest_key(distiller: Distiller) -> tuple[Any, ...]:
    """Tell digests apart: members share one if the same function makes it from the same options and fields.

    A class that inherits a digest may have changed what it calls, so it has one of its own.
    """
    options = tuple((name, distiller.options[name]) for name in distiller.digest_options)
    plain = type(distiller).digest is Distiller.digest
    return None if plain else type(distiller), options, distiller.needs

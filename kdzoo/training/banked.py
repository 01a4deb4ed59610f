"""A teacher whose answers are kept in a bank, so that it runs no more for what has been seen once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kdzoo.checks import KdzooError
from kdzoo.data.views import Views
from kdzoo.distillers.base import Digest, Distiller
from kdzoo.keys import key
from kdzoo.outputs import Batch, ModelOutput
from kdzoo.training.bank import TeacherBank
from kdzoo.training.keeping import FIELDS, Keeping, Rows, Want, field_of
from kdzoo.training.networks import SharedTeacher, digest_key

# On a GPU kernels for fewer images may round differently; a wrong row is further off than that.
TOLERANCE = 1e-3

Kept = dict[Any, Rows]


class BankedTeacher(SharedTeacher):
    """A shared teacher with a bank: what is there is read, what is not is made and kept.

    A batch comes from the bank if all that the cohort reads of it is there; else the teacher runs as without
    a bank, and what it gives is the same bit for bit. That takes a teacher whose answer for an image does not
    depend on the images beside it: this is tried before the first row is kept. The first batch of a start
    that comes from the bank, and one of each epoch, is made again and compared.

    Args:
        network: as for `SharedTeacher`.
        precision: likewise.
        digests: likewise.
        bank: of this teacher, data, views and seed.
        keeping: what it keeps of what the cohort reads.
        views: of the training images, which say when they repeat.
        steps: of an epoch.
        seed: of the choice of the batches that are compared.
        say: is told where nothing can be kept.
        fewest: as for `SharedTeacher`.
    """

    def __init__(
        self, network: nn.Module, precision: str, digests: str, *, bank: TeacherBank, keeping: Keeping,
        views: Views, steps: int, seed: int, say: Callable[[str], None], fewest: int = 2,
    ) -> None:  # fmt: skip
        super().__init__(network, precision, digests, fewest=fewest)
        self._bank = bank
        self._keeping = keeping
        self._views = views
        self._steps = steps
        self._seed = seed
        self._say = say
        self._tried = self._compared = False
        self._at: tuple[Batch, int, npt.NDArray[np.int64]] | None = None
        self._found: Kept | None = None

    def prepare(self, epoch: int, step: int, indices: npt.NDArray[np.int64]) -> Any:
        """Read the rows of a batch, if all of them are there.

        Args:
            epoch: counts from 0.
            step: counts from 0.
            indices: [n] of its samples, on the host.
        """
        return indices, self._read(epoch, indices)

    def _read(self, epoch: int, indices: npt.NDArray[np.int64]) -> Kept | None:
        if not self._keeping.whole:
            return None
        found: Kept = {}
        for want in self._keeping.kept:
            pin = torch.cuda.is_available() and next(self.network.parameters()).is_cuda
            rows = self._bank.read(want.entry, self._views.epoch(epoch), indices, pin=pin)
            if rows is None:
                return None
            found[want.place] = rows
        return found

    def begin(self, batch: Batch, epoch: int, step: int, prepared: Any = None) -> None:
        """Go on to a batch, with its rows if the bank has them all; those of some batches are compared.

        Raises:
            KdzooError: a row is not what the teacher says.
        """
        super().begin(batch, epoch, step)
        indices, found = prepared
        self._at = batch, epoch, indices
        self._found = None if found is None else self._widened(found, batch.images.device)
        # The first one too: a checkpoint must not hold steps that wrong rows were taken for.
        chosen = not self._compared or step == key(self._seed, "bank check", epoch) % self._steps
        if self._found is not None and chosen:
            self._compare(batch, self._found)
            self._compared = True

    def ready(self, batch: Batch, distiller: Distiller) -> None:
        """Run the teacher where the bank has not what a method reads."""
        if self._found is None or not self._is_current(batch):
            super().ready(batch, distiller)

    def made(self) -> Iterator[Any]:
        """List what was made or read for the batch so far."""
        yield from super().made()
        yield from (self._found or {}).values()

    def end_step(self) -> None:
        """Keep what the teacher was asked for, if it ran, and let go of the rest."""
        self._keep()
        super().end_step()

    def _keep(self) -> None:
        if self._at is None or self._found is not None or self._last is None:
            return
        batch, epoch, indices = self._at
        if self._last[0] is not batch.images or not self._keeping.kept:
            return
        if not self._tried:
            self._tried = True
            self._leave_out_what_depends(batch, self._last[1])
        for want in self._keeping.kept:
            made = self._digests.get(want.place)
            if want.place in FIELDS:
                made = want.rows(self._last[1])
            if made is not None and _are_rows(want, made, len(indices)):
                rows = {n: made[n].to(dtype) for n, (_, dtype) in want.entry.tensors.items()}
                self._bank.write(want.entry, self._views.epoch(epoch), indices, rows)

    def end_epoch(self, epoch: int) -> None:
        """Bring a view that is whole to the disk for good."""
        self._bank.seal(self._views.epoch(epoch))

    def close(self) -> None:
        """Let go of the bank's files."""
        self._bank.close()

    def _digest(self, batch: Batch, distiller: Distiller) -> dict[str, Tensor]:
        place = digest_key(distiller)
        if self._found is not None and self._is_current(batch) and place in self._found:
            return Digest(self._found[place])
        return super()._digest(batch, distiller)

    def _fields(self, batch: Batch, names: frozenset[str]) -> ModelOutput:
        if self._found is None or not self._is_current(batch):
            return super()._fields(batch, names)
        kept = {n: field_of(n, self._found[n]) for n in FIELDS if n in names}
        return ModelOutput(**{"logits": None, **kept})

    def _is_current(self, batch: Batch) -> bool:
        return self._at is not None and self._at[0].images is batch.images

    def _widened(self, found: Kept, device: torch.device) -> Kept:
        """Bring rows to where they are used, in the type that they have without a bank."""

        def one(tensor: Tensor) -> Tensor:
            here = tensor.to(device, non_blocking=True)
            # A digest that is not rounded may be of half precision by itself.
            return here.float() if self._rounded and here.dtype is torch.float16 else here

        return {place: {n: one(t) for n, t in rows.items()} for place, rows in found.items()}

    def _rows_of(self, want: Want, output: ModelOutput) -> Rows:
        return self._rounded_rows(want.rows(output))

    @torch.no_grad()
    def _leave_out_what_depends(self, batch: Batch, output: ModelOutput) -> None:
        """Keep nothing of which a row changes with the rows beside it: half of the batch, in reverse."""
        count = len(batch.images)
        order = torch.arange(count - 1, -1, -1, device=batch.images.device)[: max(2, count // 2)]
        again = self._forward(batch.images[order])
        alike: list[Want] = []
        other: list[Want] = []
        for want in self._keeping.kept:
            here, there = self._rows_of(want, output), self._rows_of(want, again)
            rows = _are_rows(want, here, count) and _are_rows(want, there, len(order))
            same = rows and all(torch.equal(here[name][order], there[name]) for name in here)
            (alike if same else other).append(want)
        if other:
            names = ", ".join(want.entry.name for want in other)
            self._say(
                f"teacher bank: {names} not kept, as it has no row for each image, or on this device one "
                "that depends on the images beside it, or on chance."
            )
        left = (*self._keeping.left, *other)
        self._keeping = replace(self._keeping, kept=tuple(alike), left=left)

    @torch.no_grad()
    def _compare(self, batch: Batch, found: Kept) -> None:
        """Make the rows of a batch again.

        Raises:
            KdzooError: they are others.
        """
        again = self._forward(batch.images)
        for want in self._keeping.kept:
            for name, made in self._rows_of(want, again).items():
                read = found[want.place][name]
                exact = made.device.type == "cpu"
                limit = 0.0 if exact else TOLERANCE * float(made.abs().max())
                if not (torch.equal(read, made) if exact else bool((read - made).abs().max() <= limit)):
                    raise KdzooError(
                        f"teacher bank: {self._bank.place(want.entry)} does not hold what the teacher says "
                        "now. Delete that folder (kdzoo work rm), or use --teacher-bank off."
                    )


def _are_rows(want: Want, made: Rows, count: int) -> bool:
    """Say whether there is a row for each sample, of the shape that the bank expects."""
    expected = {name: (count, *shape) for name, (shape, _) in want.entry.tensors.items()}
    return {name: tuple(tensor.shape) for name, tensor in made.items()} == expected

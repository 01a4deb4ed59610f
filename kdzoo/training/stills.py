"""Memory that stays where it is, for graphs that read the same place in every step."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor


class Stills:
    """Tensors that stay where they are: what members share in a step is copied into them, once a step.

    A graph reads the same memory in every step, while batches, soft labels and digests are new ones.
    """

    def __init__(self) -> None:
        # For each still: itself, what it is a copy of, and that tensor's version.
        self._fed: dict[int, tuple[Tensor, weakref.ref[Tensor], int]] = {}

    def of(self, tensors: Sequence[Tensor]) -> list[Tensor] | None:
        """Give stills of tensors, those that other members read already among them.

        Args:
            tensors: of this step.

        Returns:
            None where a still could not have the same layout.
        """
        known = {id(now()): still for still, now, _ in self._fed.values() if now() is not None}
        found = []
        for tensor in tensors:
            still = known.get(id(tensor))
            if still is None:
                still = torch.empty_like(tensor)
                if still.stride() != tensor.stride():
                    return None
                known[id(tensor)] = still
            found.append(still)
        self.feed(found, tensors)
        return found

    def feed(self, stills: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
        """Bring stills to what a step's tensors hold.

        Args:
            stills: as `of` gave them.
            tensors: in the same order.
        """
        new = {id(s): (s, t) for s, t in zip(stills, tensors, strict=True) if not self._holds(s, t)}
        if new:
            with torch.no_grad():
                torch._foreach_copy_([s for s, _ in new.values()], [t for _, t in new.values()])
        self._fed |= {i: (s, weakref.ref(t), version_of(t)) for i, (s, t) in new.items()}

    def _holds(self, still: Tensor, tensor: Tensor) -> bool:
        if tensor.is_inference():
            # It counts no writes, so that it may be another one by now.
            return False
        fed = self._fed.get(id(still))
        return fed is not None and fed[1]() is tensor and fed[2] == version_of(tensor)


def version_of(tensor: Tensor) -> int:
    """Count the writes into a tensor, without waiting for the device.

    Args:
        tensor: [...], of any shape.
    """
    # Tensors made under inference_mode count no versions; outside of it nobody can write into them.
    return 0 if tensor.is_inference() else tensor._version

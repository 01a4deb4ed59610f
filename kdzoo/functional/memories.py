"""Memories: a vector of every training sample, of which each anchor draws many."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Inner products with a whole memory that exist at once: 64 MiB of float32.
PORTION = 2**24


def drawn_rows(own: Tensor, first: Tensor, count: Tensor, *, k: int, samples: int) -> Tensor:
    """Draw rows of a memory for each anchor, with replacement; all but a run of them are equally likely.

    Args:
        own: [N], the anchors' own rows.
        first: [N], where the run begins that is left out.
        count: [N], how long it is, fewer than samples.
        k: how many to draw.
        samples: M, rows of the memory; of two rows none is likelier by more than M / 2^31 of the other.

    Returns:
        [N, 1 + k], the anchor's own row first.
    """
    left = (samples - count)[:, None]
    drawn = torch.randint(2**31, (len(own), k), device=own.device).mul_(left).bitwise_right_shift_(31)
    drawn += count[:, None] * (drawn >= first[:, None])
    return torch.cat([own[:, None], drawn], dim=1)


def scores_of(anchors: Tensor, memory: Tensor, rows: Tensor) -> Tensor:
    """Compute the inner products of anchors and chosen rows of a memory.

    They are picked from products with the whole memory, so that [N, J, D] never exists.

    Args:
        anchors: [N, D].
        memory: [M, D].
        rows: [N, J].

    Returns:
        [N, J].
    """
    return torch.cat([(a @ memory.T).gather(1, r) for a, r in _portions(memory, anchors, rows)])


def sums_of(weights: Tensor, memory: Tensor, rows: Tensor) -> Tensor:
    """Add up chosen rows of a memory with weights: the gradient of `scores_of` by its anchors.

    Args:
        weights: [N, J].
        memory: [M, D].
        rows: [N, J], with repetitions.

    Returns:
        [N, D].
    """
    found = []
    for some, chosen in _portions(memory, weights, rows):
        places = chosen + len(memory) * torch.arange(len(some), device=rows.device)[:, None]
        # Flat, because on CUDA a deterministic sum into a matrix waits for the device.
        totals = weights.new_zeros(len(some) * len(memory))
        totals.scatter_add_(0, places.flatten(), some.flatten())
        found.append(totals.view(-1, len(memory)) @ memory)
    return torch.cat(found)


def _portions(memory: Tensor, *given: Tensor) -> Iterator[tuple[Tensor, ...]]:
    anchors = max(1, PORTION // len(memory))
    return zip(*(torch.split(tensor, anchors) for tensor in given), strict=True)

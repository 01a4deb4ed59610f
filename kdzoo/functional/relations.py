"""How the samples of a batch lie to each other: their distances, and the angles of all triangles."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Triplets whose cosines exist at once: on a CPU so few that they stay in its caches, on a GPU so many that it
# has enough to do; N x N at least.
PORTION = 2**18
PORTION_ON_GPU = 2**22
# Of the mean distance: shorter sides have no direction that float64 knows.
SHORTEST = 1e-14


def distances(embedding: Tensor) -> Tensor:
    """Compute the distances between samples, over the mean of those that are positive.

    They are made from differences, in float64 whatever the embedding's precision: by way of inner products,
    or in float32, what triangles with two close corners are made of would be lost to rounding. The gradient
    can be taken once (no `create_graph`).

    Args:
        embedding: [N, D]; equal rows have distance 0, which takes no gradient and no part in the mean.

    Returns:
        [N, N], float64.

    Source: Park et al. 2019, "Relational Knowledge Distillation", the distance-wise potential.
    """
    found: Tensor = _Distances.apply(embedding.double())
    mean = found.sum() / (found > 0).sum().clamp(min=1)
    return found / mean.masked_fill(mean == 0, 1.0)


class _Distances(torch.autograd.Function):
    """Distances of rows; the gradient is two matrix products, without the differences [N, N, D]."""

    @staticmethod
    def forward(rows: Tensor) -> Tensor:
        count, place = len(rows), torch.arange(len(rows), device=rows.device)
        # torch.cdist gives the matrix itself, by differences at a tenth of the speed.
        pairs = torch.cat([torch.pdist(rows), rows.new_zeros(1)])
        first, last = torch.minimum(place[:, None], place), torch.maximum(place[:, None], place)
        where = first * (2 * count - first - 1) // 2 + last - first - 1
        return pairs[where.fill_diagonal_(len(pairs) - 1)]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        rows, found = ctx.saved_tensors
        # What all have in common cancels, and would take the digits of what they have not along.
        rows = rows - rows.mean(dim=0)
        pull = (slope + slope.T) * _inverse(found)
        turned: Tensor = pull.sum(dim=1, keepdim=True) * rows - pull @ rows
        return turned


def _inverse(found: Tensor, least: float = 0.0) -> Tensor:
    """Give 1 / distance, and 0 for those up to the least."""
    nothing = found <= least
    return found.masked_fill(nothing, 1.0).reciprocal().masked_fill(nothing, 0.0)


def angle_difference(student: Tensor, teacher: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Compute the mean Huber difference of the cosines of the angles in all triplets of samples.

    A triangle's cosines follow from its sides. They are made in portions, each once, the gradient with them:
    of N x N x N numbers none are kept, and the backward pass has nothing left to do. The gradient can be
    taken once (no `create_graph`).

    Args:
        student: [N, N] distances over their mean, float64.
        teacher: [N, N]; takes no gradient.
        dtype: of the cosines, float32 at least; what they are made of is float64.

    Returns:
        A scalar of float64, the mean over N x N x N entries; where a side has no length (`SHORTEST`) the
        cosine is 0.
    """
    value: Tensor
    value, _ = _AngleDifference.apply(student, teacher, torch.promote_types(dtype, torch.float32))
    return value / len(student) ** 3


class _AngleDifference(torch.autograd.Function):
    """The sum of Huber's differences of cosines, and its gradient by the student's distances."""

    @staticmethod
    def forward(student: Tensor, teacher: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return _difference_and_slope(student, teacher, dtype)

    @staticmethod
    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, torch.dtype], output: tuple[Tensor, Tensor]
    ) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        return outer * ctx.saved_tensors[0], None, None


class _Sides(NamedTuple):
    """What cosines are made of: half the squares of distances, and the inverse distances."""

    halves: Tensor
    inverse: Tensor

    def cosines(self, j: slice, k: slice, wide: Tensor, out: Tensor) -> Tensor:
        """Fill [j, k, i] with the cosine of the angle at sample i between samples j and k."""
        torch.add(self.halves[j, None], self.halves[k], out=wide)
        # Close corners make this difference small: in float64 it keeps its digits.
        out.copy_(wide.sub_(self.halves[j, k, None]))
        return out.mul_(self.inverse[k]).mul_(self.inverse[j, None])


def _difference_and_slope(student: Tensor, teacher: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    count, device = len(student), student.device
    ours, theirs = (_Sides(d.square() / 2, _inverse(d, SHORTEST).to(dtype)) for d in (student, teacher))
    portion = PORTION if device.type == "cpu" else PORTION_ON_GPU
    rows = max(1, min(count, portion // count**2))
    shape = (rows, count, count)
    wide, *narrow = (torch.empty(shape, dtype=t, device=device) for t in (student.dtype, *[dtype] * 3))
    total = student.new_zeros(())
    pulls, turns, opposite = (torch.zeros(count, count, dtype=dtype, device=device) for _ in range(3))
    for top in range(0, count, rows):
        # j and k may change places: what lies behind the portion's own j counts twice.
        j, k = slice(top, min(top + rows, count)), slice(top, count)
        own = j.stop - top
        cosines, difference, slope = (x[:own, : count - top] for x in narrow)
        ours.cosines(j, k, wide[:own, : count - top], cosines)
        theirs.cosines(j, k, wide[:own, : count - top], difference)
        torch.sub(cosines, difference, out=difference)
        torch.clamp(difference, -1.0, 1.0, out=slope)
        # Huber: slope x (difference - slope / 2).
        difference.sub_(slope, alpha=0.5).mul_(slope)
        for once in (difference, slope):
            once[:, :own].mul_(0.5)
        total += difference.sum()
        turned = cosines.mul_(slope)
        pulled = slope.mul_(ours.inverse[k]).mul_(ours.inverse[j, None])
        opposite[j, k] = pulled.sum(dim=2)
        for kept, new in ((pulls, pulled), (turns, turned)):
            kept[j] += new.sum(dim=1)
            kept[k] += new.sum(dim=0) if own > 1 else new[0]
    # d cos = (d(a^2) + d(b^2) - d(c^2)) / 2ab - cos (da / a + db / b), of sides a, b and the opposite one c.
    return 2 * total, 2 * (student * (pulls - opposite) - ours.inverse * turns)

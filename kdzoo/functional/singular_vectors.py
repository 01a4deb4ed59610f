"""Leading singular vectors without a full decomposition, with a gradient that is exact and stays finite."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from kdzoo.functional.products import column_products
from kdzoo.functional.vectors import unit
from kdzoo.functional.waiting import waiting

# Gaps between eigenvalues below this share of the largest one count as equal in the gradient.
GAP = 1e-5


class Leading(NamedTuple):
    """The leading singular vectors of a stage.

    Attributes:
        vectors: [N, D, k], of unit length, or zero where a sample has fewer.
        values: [N, k], singular values in descending order.
    """

    vectors: Tensor
    values: Tensor


def leading_vectors(matrices: Tensor, k: int) -> Leading:
    """Find the leading right singular vectors of matrices, through the smaller of their two Gram matrices.

    Values are those of an eigendecomposition without gradient; the gradient is its first-order perturbation,
    which is exact where eigenvalues differ and stays finite where they do not: directions inside an
    eigenspace of equal values are arbitrary, and take none. On CUDA torch's eigendecomposition waits for the
    device, the one place where a step of the zoo does.

    Args:
        matrices: [N, R, D], of numbers whose squares their type can add up: up to 1e16 or so in float32.
        k: how many; matrices with fewer rows or columns get zeros for the rest.

    Returns:
        Vectors in descending order of their singular values; the gradient flows through them alone.
    """
    wide = matrices.shape[1] < matrices.shape[2]
    columns = matrices.mT if wide else matrices
    width = columns.shape[2]
    # Kernels round by where a matrix begins in memory. Filled up with zeros, which are directions of value 0,
    # odd widths begin at even places, and a sample's bits do not depend on the samples before it.
    gram = column_products(pad(columns, (0, -width % 8)) if width % 4 else columns)
    # The vectors are the same at every scale; at this one no square leaves the range of float32.
    largest = gram.detach().diagonal(dim1=1, dim2=2).amax(dim=1)[:, None, None]
    gram = gram / largest.masked_fill(largest == 0, 1.0)
    fixed = gram.detach()
    eigenvalues, basis = waiting(torch.linalg.eigh, fixed.nan_to_num())
    # What is not finite is no error, as in other losses: it is NaN, so that the student counts as diverged.
    lost = ~fixed.isfinite().all(dim=2).all(dim=1, keepdim=True)
    eigenvalues, basis = eigenvalues.flip(-1).masked_fill(lost, torch.nan), basis.flip(-1)
    first, some = eigenvalues[:, :1], basis[:, :, :k]
    # How the leading vectors turn with the matrix: V (F * V' dA V), with F = 1 / (gap between eigenvalues).
    gaps = eigenvalues[:, None, :k] - eigenvalues[:, :, None]
    floor = (GAP * first[:, None]) ** 2
    inverse = (gaps / (gaps**2 + floor)).masked_fill((gaps == 0) | (first[:, None] <= 0), 0.0)
    vectors = some + basis @ (inverse * (basis.mT @ (gram - fixed) @ some))
    # Below the resolution of the arithmetic a direction is noise.
    noise = eigenvalues[:, :k] <= first * width * torch.finfo(gram.dtype).eps
    vectors = vectors.masked_fill(noise[:, None], 0.0)[:, :width]
    values = eigenvalues[:, :k].clamp(min=0.0).sqrt() * largest[:, 0].sqrt()
    vectors = unit(matrices.mT @ vectors, dim=1) if wide else vectors
    return Leading(*(pad(found, (0, k - some.shape[2])) for found in (vectors, values)))

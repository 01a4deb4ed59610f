"""Directions of vectors, safe where there is none."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(vectors: Tensor, *, dim: int = -1) -> Tensor:
    """Divide vectors by their length; a zero vector stays zero and takes no gradient.

    Args:
        vectors: [..., D], or with the vectors along another dimension.
        dim: along which the vectors lie.

    Returns:
        [..., D], vectors of length 1 or 0.
    """
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    nothing = lengths == 0
    # Filled twice: the first keeps 0/0 out of the forward pass, the second out of the gradient.
    return (vectors / lengths.masked_fill(nothing, 1.0)).masked_fill(nothing, 0.0)

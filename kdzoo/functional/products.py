"""Inner products of a matrix's columns, with a gradient that costs no more than they do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def column_products(matrices: Tensor) -> Tensor:
    """Compute the inner products of all pairs of a matrix's columns, its Gram matrix.

    Args:
        matrices: [..., R, D].

    Returns:
        [..., D, D], symmetric.
    """
    found: Tensor = _Products.apply(matrices)
    return found


class _Products(torch.autograd.Function):
    """The gradient is one product of matrices where that of `m.mT @ m` is two."""

    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> Tensor:
        ctx.save_for_backward(matrices)
        return matrices.mT @ matrices

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (matrices,) = ctx.saved_tensors
        found: Tensor = matrices @ (slope + slope.mT)
        return found

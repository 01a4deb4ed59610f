import pytest
import torch

from kdzoo.functional.products import column_products


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3), (2, 3, 4)])
def test_the_gram_matrix_has_the_gradient_of_its_formula_twice(shape):
    leaf = drawn(*shape).requires_grad_()
    torch.testing.assert_close(column_products(leaf), leaf.mT @ leaf)
    assert torch.autograd.gradcheck(column_products, leaf)
    assert torch.autograd.gradgradcheck(column_products, leaf)

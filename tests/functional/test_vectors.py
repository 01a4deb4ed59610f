import pytest
import torch

from kdzoo.functional.vectors import unit


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_vectors_keep_their_direction_and_have_length_one(dim):
    vectors = drawn(3, 4, 5)
    found = unit(vectors, dim=dim)
    lengths = vectors.square().sum(dim=dim, keepdim=True).sqrt()
    torch.testing.assert_close(found * lengths, vectors)
    torch.testing.assert_close(found.square().sum(dim=dim), torch.ones_like(lengths).squeeze(dim))


def test_a_zero_vector_stays_zero_and_takes_no_gradient():
    vectors = drawn(3, 4)
    vectors[1] = 0
    leaf = vectors.requires_grad_()
    found = unit(leaf)
    (gradient,) = torch.autograd.grad((found * drawn(4, 3).T).sum(), leaf)
    assert found[1].tolist() == gradient[1].tolist() == [0.0] * 4
    assert found.isfinite().all()
    assert gradient.isfinite().all()
    assert (gradient[[0, 2]].norm(dim=1) > 0).all()


def test_the_gradient_turns_a_vector_and_does_not_stretch_it():
    leaf = drawn(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(unit, leaf)
    (gradient,) = torch.autograd.grad((unit(leaf) * drawn(4, 3).T).sum(), leaf)
    assert (gradient * leaf).sum(dim=1).abs().max() < 1e-12


@pytest.mark.parametrize("scale", [1e-18, 1e-4, 1e4, 1e18])
def test_any_length_goes(scale):
    vectors = drawn(3, 4).float()
    torch.testing.assert_close(unit(scale * vectors), unit(vectors))

import torch

from kdzoo.functional.divergences import cross_entropy, kl_divergence


def log_probs(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(*shape, generator=generator, dtype=torch.float64)).log_softmax(dim=-1)


def test_divergence_is_torchs_with_its_reduction_written_out():
    target, other = log_probs(5, 7), log_probs(5, 7, seed=1)
    expected = torch.nn.functional.kl_div(other, target, reduction="none", log_target=True).sum(dim=1)
    torch.testing.assert_close(kl_divergence(target, other), expected)


def test_nothing_diverges_from_itself():
    target = log_probs(5, 7)
    assert torch.equal(kl_divergence(target, target), torch.zeros(5, dtype=torch.float64))


def test_zero_log_zero_is_zero_in_value_and_gradient():
    target = torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64).log()
    for other in (log_probs(2, 3, seed=1), torch.tensor([[-1e4, -1e4, -1e30]] * 2, dtype=torch.float64)):
        leaf = other.clone().requires_grad_()
        divergence = kl_divergence(target, leaf)
        divergence.sum().backward()
        assert divergence.isfinite().all()
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, -target.exp())


def test_a_target_that_underflows_is_zero():
    target = torch.tensor([[0.0, -500.0]])
    assert kl_divergence(target, torch.tensor([[-0.0, -1e30]])).tolist() == [0.0]


def test_divergence_has_the_gradient_of_its_formula():
    target, other = log_probs(3, 4), log_probs(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: kl_divergence(target, x.log_softmax(dim=1)), other)


def test_rows_do_not_touch_each_other():
    target, other = log_probs(6, 5), log_probs(6, 5, seed=1)
    labels = torch.arange(6) % 5
    assert torch.equal(kl_divergence(target, other)[2:3], kl_divergence(target[2:3], other[2:3]))
    assert torch.equal(cross_entropy(other, labels)[2:3], cross_entropy(other[2:3], labels[2:3]))


def test_cross_entropy_of_large_logits_is_finite():
    logits = torch.tensor([[1e4, 0.0, -1e4]])
    assert cross_entropy(logits, torch.tensor([2])).tolist() == [2e4]
    assert cross_entropy(logits, torch.tensor([0])).tolist() == [0.0]

import pytest
import torch

from kdzoo.functional import memories
from kdzoo.functional.memories import drawn_rows, scores_of, sums_of


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=[None, 7, 20], ids=["whole", "one by one", "in portions"])
def portion(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(memories, "PORTION", request.param)


@pytest.mark.usefixtures("portion")
def test_products_with_chosen_rows_are_those_of_gathered_rows():
    anchors, memory = drawn(5, 3).requires_grad_(), drawn(9, 3, seed=1)
    rows = torch.randint(9, (5, 40), generator=torch.Generator().manual_seed(2))
    plain = (memory[rows] * anchors[:, None]).sum(dim=2)
    torch.testing.assert_close(scores_of(anchors, memory, rows), plain)
    weights = drawn(5, 40, seed=3)
    (expected,) = torch.autograd.grad((weights * plain).sum(), anchors)
    torch.testing.assert_close(sums_of(weights, memory, rows), expected)


def draws(own, first, count, k=4000, samples=6):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return drawn_rows(*map(torch.tensor, (own, first, count)), k=k, samples=samples)


def test_all_rows_but_a_run_are_equally_likely():
    found = draws([1, 5, 2], [0, 5, 2], [2, 1, 3])
    assert found.shape == (3, 4001)
    assert found[:, 0].tolist() == [1, 5, 2]
    counts = [row[1:].bincount(minlength=6).tolist() for row in found]
    for some, forbidden in zip(counts, ([0, 1], [5], [2, 3, 4]), strict=True):
        assert [i for i, n in enumerate(some) if n == 0] == forbidden
        share = 4000 / (6 - len(forbidden))
        assert all(abs(n - share) < 5 * share**0.5 for n in some if n)


def test_anchors_draw_apart():
    one, other = draws([0, 0], [0, 0], [1, 1], k=50)[:, 1:]
    assert not torch.equal(one, other)


def test_one_row_that_may_be_drawn_is_drawn():
    assert draws([0], [0], [5], k=20)[0].tolist() == [0] + [5] * 20


def test_draws_reach_both_ends_of_a_large_memory():
    samples = 2**31 - 1
    found = draws([0], [0], [1], k=10_000, samples=samples)[0, 1:]
    assert found.min() > 0
    assert found.max() < samples
    assert found.min() < samples // 100
    assert found.max() > samples - samples // 100

import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.distillers import build_distiller
from kdzoo.distillers.pkt import PKT, neighbours, pkt_loss

EPS = 1e-7
DTYPES = [torch.float32, torch.float64]


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def loss_and_gradient(student, teacher, eps=EPS):
    leaf = student.clone().requires_grad_()
    loss = pkt_loss(leaf, teacher, eps=eps)
    return loss, torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [EPS, 0.0])
def test_a_zero_row_has_a_finite_gradient(eps, dtype):
    student, teacher = drawn(5, 4, dtype=dtype), drawn(5, 7, seed=1, dtype=dtype)
    student[2] = 0
    loss, gradient = loss_and_gradient(student, teacher, eps)
    assert loss > 0
    assert gradient.isfinite().all()
    assert gradient[2].tolist() == [0.0] * 4
    assert (gradient[[0, 1, 3, 4]].norm(dim=1) > 1e-4).all()
    # Where the teacher is silent all neighbours are equally likely.
    teacher[1] = 0
    loss, gradient = loss_and_gradient(student, teacher, eps)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    torch.testing.assert_close(neighbours(teacher, eps=eps)[1], torch.full((5,), 0.2, dtype=dtype))


def test_a_batch_of_zero_rows_is_finite():
    loss, gradient = loss_and_gradient(torch.zeros(5, 4), drawn(5, 7, dtype=torch.float32))
    assert loss > 0
    assert torch.equal(gradient, torch.zeros(5, 4))
    loss, gradient = loss_and_gradient(drawn(5, 4, dtype=torch.float32), torch.zeros(5, 7))
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e-4])
def test_opposite_rows_stay_finite(scale, dtype):
    """Rounding takes some of their cosines below -1, and the logarithm of a negative number is NaN."""
    rows = drawn(40, 3, dtype=dtype)
    opposite = scale * torch.cat([rows, -rows])
    affinities = neighbours(opposite, eps=EPS)
    assert (affinities >= 0).all()
    torch.testing.assert_close(affinities.sum(dim=1), torch.ones(80, dtype=dtype))
    for student, teacher in (
        (opposite, drawn(80, 5, dtype=dtype)),
        (drawn(80, 5, dtype=dtype), opposite),
        (opposite, -opposite),
        (opposite, opposite.flip(0)),
    ):
        loss, gradient = loss_and_gradient(student, teacher)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_without_eps_what_the_teacher_never_picks_costs_nothing():
    """0 log 0 is 0, whatever the student thinks of it."""
    teacher = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert neighbours(teacher, eps=0.0)[0, 1] == 0
    for student in (drawn(3, 4), teacher):
        loss, gradient = loss_and_gradient(student, teacher, eps=0.0)
        assert loss.isfinite()
        assert gradient.isfinite().all()
        torch.testing.assert_close(loss, pkt_loss(student, teacher, eps=1e-12))
    assert loss.abs() < 1e-15
    # The other way round the divergence is infinite, and says so.
    assert pkt_loss(teacher, drawn(3, 4), eps=0.0) == torch.inf


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [EPS, 0.0])
def test_one_sample_has_no_neighbours(eps, dtype):
    loss, gradient = loss_and_gradient(drawn(1, 4, dtype=dtype), drawn(1, 7, dtype=dtype), eps)
    assert loss.item() == 0
    assert gradient.abs().max() < 1e-12


def test_features_of_ten_thousand_stay_finite():
    signs = torch.sign(drawn(6, 4, dtype=torch.float32))
    loss, gradient = loss_and_gradient(1e4 * signs, -1e4 * signs.flip(0))
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_the_mean_is_over_all_pairs_the_diagonal_included():
    student, teacher = drawn(5, 4), drawn(5, 7, seed=1)
    s, t = neighbours(student, eps=EPS), neighbours(teacher, eps=EPS)
    terms = t * ((t + EPS) / (s + EPS)).log()
    torch.testing.assert_close(pkt_loss(student, teacher, eps=EPS), terms.sum() / 25)
    assert terms.diagonal().abs().sum() > 1e-2
    for row in (s, t):
        torch.testing.assert_close(row.sum(dim=1), torch.ones(5, dtype=torch.float64))


def test_the_class_is_the_weighted_loss(pair, learn):
    outputs = pair(widths=(4, 7))
    terms = learn(build_distiller("pkt", outputs.setting, {"weight": 3, "eps": 0.1}), outputs)
    assert list(terms) == ["pkt"]
    expected = 3 * pkt_loss(outputs.student.embedding, outputs.teacher.embedding, eps=0.1)
    torch.testing.assert_close(terms["pkt"], expected)


def test_the_defaults_are_those_of_the_benchmarks_and_the_authors_code(setting):
    assert build_distiller("pkt", setting).options == {"weight": 30000.0, "eps": 1e-7}
    assert PKT.needs == {"embedding"}
    with pytest.raises(UsageError, match=r"^pkt: eps must be a number in \(0, inf\), got 0\."):
        build_distiller("pkt", setting, {"eps": 0})


def test_the_teachers_side_is_neighbourhoods_made_once_a_batch(pair, learn):
    outputs = pair(widths=(4, 7))
    distiller = build_distiller("pkt", outputs.setting, {"eps": 0.01})
    kept = distiller.detached_digest(outputs.teacher)
    assert list(kept) == ["neighbours"]
    torch.testing.assert_close(kept["neighbours"], neighbours(outputs.teacher.embedding, eps=0.01).detach())
    expected = 30000 * pkt_loss(outputs.student.embedding, outputs.teacher.embedding, eps=0.01)
    torch.testing.assert_close(learn(distiller, outputs)["pkt"], expected)
    assert (PKT.digest_scope, PKT.digest_options) == ("batch", ("eps",))

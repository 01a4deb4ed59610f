import math

import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.distillers import build_distiller
from kdzoo.distillers.cc import CC, cc_consecutive_loss, cc_loss, correlations
from kdzoo.outputs import ModelOutput

DTYPES = [torch.float32, torch.float64]
FORMS = ["paper", "consecutive"]
PAPERS = {"gamma": 0.4, "order": 2}


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def loss_and_gradient(form, student, teacher, **options):
    leaf = student.clone().requires_grad_()
    if form == "paper":
        loss = cc_loss(leaf, teacher, **(PAPERS | options))
    else:
        loss = cc_consecutive_loss(leaf, teacher)
    return loss, torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_zero_row_takes_no_gradient_and_leaves_the_others_theirs(dtype):
    student, teacher = drawn(5, 4, dtype=dtype), drawn(5, 7, seed=1, dtype=dtype)
    student[2] = 0
    loss, gradient = loss_and_gradient("paper", student, teacher)
    assert loss > 0
    assert gradient.isfinite().all()
    assert gradient[2].tolist() == [0.0] * 4
    assert (gradient[[0, 1, 3, 4]].norm(dim=1) > 1e-5).all()
    teacher[1] = 0
    loss, gradient = loss_and_gradient("paper", student, teacher)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "kind", ["zeros", "equal rows", "the teacher's", "ten thousand", "one sample", "tiny"]
)
def test_gradients_stay_finite(kind, form, dtype):
    student, teacher = drawn(6, 5, dtype=dtype), drawn(6, 5, seed=1, dtype=dtype)
    if kind == "zeros":
        student = torch.zeros_like(student)
    elif kind == "equal rows":
        student = student[:1].expand(6, 5)
    elif kind == "the teacher's":
        student = teacher.clone()
    elif kind == "ten thousand":
        student, teacher = 1e4 * student.sign(), -1e4 * student.flip(0).sign()
    elif kind == "tiny":
        student = 1e-12 * student
    else:
        student, teacher = student[:1], teacher[:1]
    loss, gradient = loss_and_gradient(form, student, teacher)
    assert loss.dtype == dtype
    assert loss.isfinite()
    assert gradient.isfinite().all()
    if kind in ("the teacher's", "one sample"):
        assert loss < 1e-12
        assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("gamma", "order"), [(1e-6, 1), (1e4, 2), (300.0, 700), (1e6, 40), (0.4, 500)])
def test_no_gamma_and_no_order_overflows(gamma, order, dtype):
    student, teacher = drawn(5, 4, dtype=dtype), drawn(5, 7, seed=1, dtype=dtype)
    loss, gradient = loss_and_gradient("paper", student, teacher, gamma=gamma, order=order)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert correlations(student, gamma=gamma, order=order).abs().max() < 1 + 1e-5


def test_a_long_series_is_the_gaussian_kernel():
    rows = drawn(6, 4)
    directions = rows / rows.norm(dim=1, keepdim=True)
    for gamma in (0.1, 0.4, 2.0):
        exact = torch.exp(-gamma * torch.cdist(directions, directions).square())
        torch.testing.assert_close(correlations(rows, gamma=gamma, order=40), exact)
        off = [(correlations(rows, gamma=gamma, order=p) - exact).abs().max().item() for p in (1, 2, 4, 8)]
        assert off == sorted(off, reverse=True)
        assert off[-1] < 0.05 * off[0]


def test_correlations_know_directions_alone_and_any_two_widths_meet():
    student, teacher = drawn(5, 4), drawn(5, 7, seed=1)
    expected = cc_loss(student, teacher, **PAPERS)
    scales = torch.tensor([[1e-3], [2.0], [5.0], [1.0], [1e3]], dtype=torch.float64)
    torch.testing.assert_close(cc_loss(scales * student, teacher, **PAPERS), expected)
    turned = torch.linalg.qr(drawn(4, 4, seed=2))[0]
    torch.testing.assert_close(cc_loss(student @ turned, teacher, **PAPERS), expected)
    # Whatever the order of the batch.
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(cc_loss(student[order], teacher[order], **PAPERS), expected)


def test_the_mean_is_over_all_pairs_the_diagonal_included():
    student, teacher = drawn(5, 4), drawn(5, 7, seed=1)
    student[2] = 0
    s, t = (correlations(e, **PAPERS) for e in (student, teacher))
    torch.testing.assert_close(cc_loss(student, teacher, **PAPERS), (s - t).square().sum() / 25)
    # A row of zeros has no direction: its kernel is exp(-2 gamma) with all, on the diagonal too.
    torch.testing.assert_close(s[2], torch.full((5,), math.exp(-0.8), dtype=torch.float64))
    assert (s - t).diagonal()[2].abs() > 0.1


def test_the_consecutive_form_depends_on_the_order_of_the_batch():
    student, teacher = drawn(6, 4), drawn(6, 4, seed=1)
    loss = cc_consecutive_loss(student, teacher)
    order = torch.tensor([0, 2, 4, 1, 3, 5])
    assert (cc_consecutive_loss(student[order], teacher[order]) - loss).abs() > 0.05 * loss
    torch.testing.assert_close(cc_consecutive_loss(student.flip(0), teacher.flip(0)), loss)
    # Half of the samples may be as wrong as they like.
    student[::2] = teacher[::2]
    assert cc_consecutive_loss(student, teacher) == 0


def test_the_papers_form_is_the_weighted_loss_without_trained_parts(pair, learn):
    outputs = pair(widths=(4, 7))
    options = {"weight": 3, "gamma": 0.9, "order": 3}
    distiller = build_distiller("cc", outputs.setting, options)
    terms = learn(distiller, outputs)
    assert list(terms) == ["cc"]
    expected = cc_loss(outputs.student.embedding, outputs.teacher.embedding, gamma=0.9, order=3)
    torch.testing.assert_close(terms["cc"], 3 * expected)
    assert not list(distiller.parameters())


def test_the_consecutive_form_is_the_weighted_loss_behind_two_maps_that_train(pair, learn):
    outputs = pair(widths=(4, 7), dtype=torch.float32)
    distiller = build_distiller("cc", outputs.setting, {"form": "consecutive", "weight": 3})
    assert {n: tuple(p.shape) for n, p in distiller.named_parameters()} == {
        "student_map.weight": (128, 4),
        "student_map.bias": (128,),
        "teacher_map.weight": (128, 7),
        "teacher_map.bias": (128,),
    }
    terms = learn(distiller, outputs)
    assert list(terms) == ["cc"]
    student = distiller.student_map(outputs.student.embedding)
    teacher = distiller.teacher_map(outputs.teacher.embedding)
    torch.testing.assert_close(terms["cc"], 3 * cc_consecutive_loss(student, teacher))
    terms["cc"].backward()
    assert all(p.grad.abs().max() > 0 for p in distiller.parameters())
    assert outputs.student.embedding.grad.abs().max() > 0
    assert outputs.teacher.embedding.grad is None


@pytest.mark.parametrize(("form", "weight"), [("paper", 100.0), ("consecutive", 0.02)])
def test_the_weight_is_by_default_that_of_the_form(form, weight, pair, learn):
    outputs = pair(widths=(4, 7), dtype=torch.float32)
    terms = []
    for given in ("auto", weight):
        torch.manual_seed(0)
        distiller = build_distiller("cc", outputs.setting, {"form": form, "weight": given})
        terms.append(learn(distiller, outputs)["cc"])
    assert torch.equal(*terms)
    assert terms[0] > 0


def test_the_defaults_are_those_of_public_code(setting):
    expected = {"form": "paper", "weight": "auto", "gamma": 0.4, "order": 2}
    assert build_distiller("cc", setting).options == expected
    assert CC.needs == {"embedding"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "neighbours"}, "form must be 'paper' or 'consecutive', got 'neighbours'"),
        ({"weight": -1}, "weight must be"),
        ({"gamma": 0}, r"gamma must be a number in \(0, inf\), got 0"),
        ({"order": 0}, r"order must be an integer in \[1, inf\), got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message, setting):
    with pytest.raises(UsageError, match=f"^cc: {message}"):
        build_distiller("cc", setting, options)


@pytest.mark.parametrize("options", [{"gamma": 0.8}, {"order": 3}, {"weight": 50}, {"form": "consecutive"}])
def test_every_option_changes_something(options, pair, learn):
    outputs = pair(dtype=torch.float32)
    usual, other = (learn(build_distiller("cc", outputs.setting, o), outputs)["cc"] for o in ({}, options))
    assert (usual - other).abs() > 1e-3 * usual


def test_the_teachers_side_is_made_once_a_batch(pair):
    outputs = pair(widths=(4, 7), dtype=torch.float32)
    distiller = build_distiller("cc", outputs.setting, {"gamma": 0.7, "order": 3})
    kept = distiller.detached_digest(outputs.teacher)
    assert list(kept) == ["correlations"]
    expected = correlations(outputs.teacher.embedding, gamma=0.7, order=3).detach()
    torch.testing.assert_close(kept["correlations"], expected)
    # What trains is no part of it.
    distiller = build_distiller("cc", outputs.setting, {"form": "consecutive"})
    kept = distiller.detached_digest(outputs.teacher)
    assert list(kept) == ["embedding"]
    assert torch.equal(kept["embedding"], outputs.teacher.embedding)
    assert (CC.digest_scope, CC.digest_options) == ("batch", ("form", "gamma", "order"))


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_of_one_is_no_pair(form, pair, learn):
    outputs = pair(samples=1, dtype=torch.float32)
    distiller = build_distiller("cc", outputs.setting, {"form": form})
    loss = learn(distiller, outputs)["cc"]
    assert loss.abs() < 1e-9
    (gradient,) = torch.autograd.grad(loss, outputs.student.embedding)
    assert gradient.abs().max() < 1e-5


def test_maps_are_no_part_of_what_is_deployed(setting):
    distiller, student = build_distiller("cc", setting, {"form": "consecutive"}), torch.nn.Linear(3, 2)
    assert distiller.deployed(student) is student


def test_only_the_embedding_is_read(pair, learn):
    outputs = pair()
    alone = outputs._replace(teacher=ModelOutput(None, outputs.teacher.embedding))
    distiller = build_distiller("cc", outputs.setting)
    assert torch.equal(learn(distiller, outputs)["cc"], learn(distiller, alone)["cc"])

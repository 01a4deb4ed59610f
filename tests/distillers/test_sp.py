import pytest
import torch

from kdzoo.checks import UsageError
from kdzoo.distillers import build_distiller
from kdzoo.distillers.sp import SP, similarities, sp_loss

LENET, RESNET18 = ((6, 28, 28), (16, 10, 10)), ((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4))
DTYPES = [torch.float32, torch.float64]


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def loss_and_gradient(student, teacher):
    leaf = student.clone().requires_grad_()
    loss = sp_loss(leaf, teacher)
    return loss, torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_row_of_a_zero_sample_is_zero_and_takes_no_gradient(dtype):
    student, teacher = drawn(5, 2, 3, 3, dtype=dtype), drawn(5, 4, 2, 2, seed=1, dtype=dtype)
    student[2] = 0
    loss, gradient = loss_and_gradient(student, teacher)
    assert similarities(student)[2].tolist() == [0.0] * 5
    assert loss > 0
    assert gradient.isfinite().all()
    # What the others make of it does move it: their rows alone have the same gradient.
    leaf = student.clone().requires_grad_()
    others = [0, 1, 3, 4]
    alone = (similarities(leaf) - similarities(teacher))[others].square().sum() / 25
    (expected,) = torch.autograd.grad(alone, leaf)
    torch.testing.assert_close(gradient, expected)
    assert (gradient.flatten(1).norm(dim=1) > 1e-4).all()
    teacher[1] = 0
    loss, gradient = loss_and_gradient(student, teacher)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_a_batch_of_zero_samples_is_finite():
    student, teacher = drawn(5, 2, 3, 3, dtype=torch.float32), drawn(5, 4, 2, 2, dtype=torch.float32)
    loss, gradient = loss_and_gradient(torch.zeros_like(student), teacher)
    # All that is left are the teacher's rows, of length 1 each.
    torch.testing.assert_close(loss, torch.tensor(5 / 25))
    assert torch.equal(gradient, torch.zeros_like(student))
    loss, gradient = loss_and_gradient(student, torch.zeros_like(teacher))
    torch.testing.assert_close(loss, torch.tensor(5 / 25))
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_sample_is_like_itself(dtype):
    loss, gradient = loss_and_gradient(drawn(1, 2, 3, 3, dtype=dtype), drawn(1, 4, 2, 2, dtype=dtype))
    assert loss.item() == 0
    assert gradient.abs().max() == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_samples_have_equal_rows(dtype):
    student, teacher = drawn(5, 2, 3, 3, dtype=dtype), drawn(5, 4, 2, 2, seed=1, dtype=dtype)
    student[4] = student[0]
    table = similarities(student)
    torch.testing.assert_close(table[4], table[0])
    loss, gradient = loss_and_gradient(student, teacher)
    assert loss > 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize("scale", [1e-12, 1e4, 1e12])
def test_features_of_any_size_are_exact_in_float32(scale):
    student, teacher = drawn(6, 2, 3, 3, dtype=torch.float32), drawn(6, 4, 2, 2, seed=1, dtype=torch.float32)
    loss, gradient = loss_and_gradient(scale * student, scale * teacher)
    exact, expected = loss_and_gradient(student.double(), teacher.double())
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    torch.testing.assert_close(scale * gradient.double(), expected, rtol=1e-3, atol=1e-6)


def test_a_sample_that_is_far_fainter_keeps_its_row():
    student, teacher = drawn(4, 2, 3, 3, dtype=torch.float32), drawn(4, 4, 2, 2, seed=1, dtype=torch.float32)
    bright = similarities(student)
    student[3] *= 1e-14
    faint = similarities(student)
    others = faint[3, :3] / faint[3, :3].norm()
    torch.testing.assert_close(others, bright[3, :3] / bright[3, :3].norm())
    loss, gradient = loss_and_gradient(student, teacher)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", ["constant", "signs"])
def test_features_of_ten_thousand_stay_finite(kind):
    student = drawn(6, 2, 3, 3, dtype=torch.float32).sign() if kind == "signs" else torch.ones(6, 2, 3, 3)
    loss, gradient = loss_and_gradient(1e4 * student, -1e4 * student.flip(0))
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_a_diverged_student_gives_no_number_and_no_error(wrong):
    student = drawn(3, 2, 3, 3)
    student[1, 0, 0, 0] = wrong
    loss, _ = loss_and_gradient(student, drawn(3, 4, 2, 2))
    assert not loss.isfinite()


def test_gradients_are_those_of_the_values():
    student, teacher = drawn(4, 2, 3, 2).requires_grad_(), drawn(4, 3, 2, 2, seed=1)
    assert torch.autograd.gradcheck(lambda given: sp_loss(given, teacher), student)


def test_equal_networks_lose_nothing_and_the_order_of_the_samples_means_nothing():
    student, teacher, order = drawn(5, 2, 3, 3), drawn(5, 4, 2, 2, seed=1), [3, 0, 4, 1, 2]
    loss, gradient = loss_and_gradient(student, student)
    assert loss.item() == 0
    assert gradient.abs().max() == 0
    torch.testing.assert_close(sp_loss(student[order], teacher[order]), sp_loss(student, teacher))


def test_each_row_is_divided_by_its_own_length(pair):
    student, _ = pair()
    table = similarities(student.stages[1])
    torch.testing.assert_close(table.norm(dim=1), torch.ones(6, dtype=torch.float64))
    assert (table - table.T).abs().max() > 1e-2
    flat = student.stages[1].flatten(1)
    products = flat @ flat.T
    torch.testing.assert_close(table, products / products.norm(dim=1, keepdim=True))


@pytest.mark.parametrize(("student", "teacher"), [(LENET, RESNET18), (RESNET18, LENET)])
def test_the_class_is_the_weighted_loss_of_the_last_stages(student, teacher, pair, learn):
    outputs = pair(student, teacher, samples=3)
    distiller = build_distiller("sp", outputs.setting, {"weight": 7})
    assert [(p.student, p.teacher) for p in distiller.pairs] == [(len(student) - 1, len(teacher) - 1)]
    # Maps of different size are taken as they are.
    assert distiller.pairs[0].described()["pooled_to"] is None
    terms = learn(distiller, outputs)
    assert list(terms) == ["sp"]
    torch.testing.assert_close(
        terms["sp"], 7 * sp_loss(outputs.student.stages[-1], outputs.teacher.stages[-1])
    )
    terms["sp"].backward()
    assert outputs.student.stages[-1].grad.abs().max() > 0
    assert outputs.student.stages[0].grad is None


def test_the_weight_changes_the_loss(pair, learn):
    outputs = pair()
    usual, half = (
        learn(build_distiller("sp", outputs.setting, options), outputs)["sp"]
        for options in ({}, {"weight": 1500})
    )
    torch.testing.assert_close(usual, 2 * half)


def test_the_defaults_are_those_of_the_benchmarks(setting):
    assert build_distiller("sp", setting).options == {"weight": 3000.0}
    assert SP.needs == {"stages"}
    with pytest.raises(UsageError, match=r"^sp: weight must be"):
        build_distiller("sp", setting, {"weight": -1})


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_network_without_stages_is_refused(role, setting):
    bare = setting._replace(**{role: getattr(setting, role)._replace(stages=None)})
    with pytest.raises(UsageError, match=f"^sp: it needs the {role}'s stages, which this {role} does not"):
        build_distiller("sp", bare)


def test_the_teachers_side_is_a_table_made_once_a_batch(pair):
    outputs = pair(widths=(4, 7))
    outputs.teacher.stages[1].requires_grad_()
    kept = build_distiller("sp", outputs.setting).detached_digest(outputs.teacher)
    assert list(kept) == ["similarities"]
    assert kept["similarities"].shape == (6, 6)
    assert not kept["similarities"].requires_grad
    torch.testing.assert_close(kept["similarities"], similarities(outputs.teacher.stages[1]).detach())
    assert (SP.digest_scope, SP.digest_options) == ("batch", ())
